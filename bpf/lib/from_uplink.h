/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What becomes of a packet that arrives at an uplink. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "config.h"
#include "ct.h"
#include "decap.h"
#include "deliver.h"
#include "dest.h"
#include "direct.h"
#include "drop.h"
#include "flow.h"
#include "flow_create.h"
#include "held.h"
#include "hostaddr.h"
#include "hostsock.h"
#include "icmp.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "icmp_send.h"
#include "maglev.h"
#include "outer.h"
#include "path_mtu.h"
#include "pkt.h"
#include "service.h"
#include "skb.h"
#include "source.h"
#include "subnet.h"
#include "track.h"
#include "tunnel_in.h"
#include "tuple.h"
#include "uplink.h"
#include "vlan.h"
#include "xlat_len.h"

/* Is it a source address that no packet from outside may have? The datapath bypasses the
 * stack's own check for martians. */
static __always_inline bool is_martian_source(const union ip *src)
{
	return ip_is_loopback(src) || ip_is_unspecified(src) || ip_is_multicast(src);
}

/* Marks an ICMP error that icmp_refuse sends from an uplink. The error embeds the packet as it was
 * on the wire: to_uplink must not translate it like one of the stack, which embeds the packet
 * after translation. It is accounted with the packet that it is about. */
static __always_inline int uplink_error(struct __sk_buff *skb, const struct uplink *up, int verdict,
					int refusal)
{
	if (verdict == refusal || !up)
		return verdict;
	skb->mark = cfg_mark + up->flags / UP_BELOW; /* as in to_next_hop */
	return verdict;
}

/* Sends an ICMP error to the sender of packet p, outside the host. Its source is the uplink's
 * address or, if the uplink has none, the destination of p, as a router would choose it (RFC
 * 1812 section 4.3.2.4). */
static __always_inline int uplink_tell(struct __sk_buff *skb, const struct pkt *p, __u32 kind,
				       __u32 mtu, int refusal)
{
	struct uplink *up = uplink_find(skb->ifindex);
	const union ip *src = &p->t.daddr;

	if (p->flags & (PKT_ICMP_ERROR | PKT_FRAG_LATER) || !icmp_may_send())
		return refusal;
	if (up && p->flags & PKT_IP4 && !ip_is_zero(&up->ip4))
		src = &up->ip4;
	else if (up && !(p->flags & PKT_IP4) && !ip_is_zero(&up->ip6))
		src = &up->ip6;
	return uplink_error(skb, up, icmp_refuse(skb, p, src, kind, mtu, refusal), refusal);
}

static __always_inline int uplink_ttl_exceeded(struct __sk_buff *skb, const struct pkt *p)
{
	return uplink_tell(skb, p, icmp_time_exceeded(p), 0, -DROP_TTL);
}

/* Routes packet p from outside, translated to *to, into the sandbox of endpoint ifindex, unless it
 * is too big for that. Global, so that it is verified once. */
__noinline int uplink_to_sandbox(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				 __u32 ifindex)
{
	struct dest d = {};
	__u32 kind, mtu;
	int err;

	if (!p || !to)
		return -DROP_NAT_FAILED;
	err = dest_endpoint(&d, ifindex, to);
	if (err)
		return err;
	if (!(p->flags & PKT_DF) || !d.ep->mtu || xlat_len(p, &to->daddr) <= d.ep->mtu)
		return deliver_known(skb, p, &d, 0);
	mtu = d.ep->mtu - (xlat_len(p, &to->daddr) - p->len); /* as the sender counts it */
	kind = p->flags & PKT_IP4 ? ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED) :
				    ICMP_KIND(ICMPV6_PKT_TOOBIG, 0);
	return uplink_tell(skb, p, kind, mtu, -DROP_TOO_BIG);
}

/* May a flow from outside begin at this source? Returns 0 or -DROP_X. */
static __always_inline int uplink_source(const union ip *src)
{
	if (is_martian_source(src) || subnet_of(src) || host_addr(src))
		return -DROP_SPOOFED_IP;
	/* The answer could not be routed (RFC 4291 section 2.5.6). */
	return ip_is_linklocal6(src) ? -DROP_MARTIAN : 0;
}

/* Begins a flow from outside to backend b of service s. */
static __always_inline int uplink_published(struct __sk_buff *skb, struct pkt *p,
					    const struct service *s, const struct backend *b)
{
	struct flow *f;
	int err;

	if (ip_is_loopback(&p->t.daddr))
		return -DROP_LOOPBACK; /* published only for processes on the host */
	err = uplink_source(&p->t.saddr);
	if (err)
		return err;
	if (!source_allowed(s, &p->t.saddr))
		return -DROP_PUBLISH_FROM;
	if (p->ttl <= 1)
		return uplink_ttl_exceeded(skb, p);
	f = flow_prepare(p, b->net, 0, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_publish(f, s, b, false);
	if (!err)
		err = flow_create(skb, p);
	if (err)
		return err;
	return uplink_to_sandbox(skb, p, &f->e.xlat, b->ifindex);
}

/* Begins a flow of packet p from outside to the host at the gateway's address of network net.
 * The reply must not be masqueraded like flows that the host begins from that address, so the
 * flow needs an entry. */
static __always_inline int uplink_to_gateway(struct __sk_buff *skb, struct pkt *p, __u32 net)
{
	const union ip *src = &p->t.saddr;
	struct flow *f;

	if (is_martian_source(src) || ip_is_linklocal6(src) || subnet_of(src) || host_addr(src))
		return VERDICT_NEXT; /* replies to these sources do not leave by an uplink */
	f = flow_prepare(p, net, 0, 0);
	if (!f)
		return VERDICT_NEXT;
	f->e.flags = CT_F_HOST;
	if (flow_create(skb, p))
		return VERDICT_NEXT; /* the host may still accept it */
	return deliver_stack(skb, p, &f->e.xlat);
}

/* Is e the entry of the original direction of such a flow? */
static __always_inline bool begun_to_host(const struct ct_entry *e)
{
	return (e->flags & (CT_F_HOST | CT_F_REPLY)) == CT_F_HOST;
}

/* Leaves a packet to the stack, unless it is addressed directly to a sandbox or to the
 * loopback. begins: it may begin a flow. VERDICT_DIRECT: to a sandbox that may be reached. */
static __always_inline int uplink_to_host(struct __sk_buff *skb, struct pkt *p, bool begins)
{
	struct uplink *up = uplink_find(skb->ifindex);
	__u32 subnet;

	/* Usually it is for the uplink's own address; that check is cheaper than a lookup. */
	if (up && (ip_equal(&p->t.daddr, &up->ip4) || ip_equal(&p->t.daddr, &up->ip6)))
		return VERDICT_NEXT;
	if (ip_is_loopback(&p->t.daddr))
		return -DROP_LOOPBACK;
	subnet = subnet_find(&p->t.daddr);
	if (!subnet)
		return VERDICT_NEXT;
	if (!host_addr(&p->t.daddr))
		return begins && subnet & SUBNET_REACHED ? VERDICT_DIRECT : -DROP_DIRECT;
	return begins ? uplink_to_gateway(skb, p, subnet & SUBNET_NET) : VERDICT_NEXT;
}

/* Handles a packet of no known flow that arrived for the host. */
static __noinline int uplink_new(struct __sk_buff *skb, struct pkt *p)
{
	/* A packet that is not for the host is in transit, whatever ports are published. */
	if (publish_may_begin(p) && host_addr(&p->t.daddr)) {
		struct service *s = service_find(&p->t.daddr, p->t.dport, p->t.proto);
		struct backend *b = service_backend(s, &p->t);

		if (b && !(p->t.proto == IPPROTO_UDP && host_connected(skb, &p->t)))
			return uplink_published(skb, p, s, b);
	}
	return uplink_to_host(skb, p, true);
}

/* Begins a flow from outside to a sandbox's own address. */
static __noinline int uplink_direct(struct __sk_buff *skb, struct pkt *p)
{
	struct flow *f;
	int err;

	err = uplink_source(&p->t.saddr);
	if (!err)
		err = direct_prepare(p, 0);
	if (err)
		return err;
	if (p->ttl <= 1)
		return uplink_ttl_exceeded(skb, p);
	err = flow_create(skb, p);
	f = flow_scratch();
	if (err || !f)
		return err ? err : -DROP_CT_FULL;
	return uplink_to_sandbox(skb, p, &f->e.xlat, f->e.out_if);
}

/* Begins a flow of packet p, or leaves it to the stack. */
static __always_inline int uplink_begin(struct __sk_buff *skb, struct pkt *p)
{
	int err = uplink_new(skb, p);

	return err == VERDICT_DIRECT ? uplink_direct(skb, p) :
				       err; /* uplink_new has no stack left */
}

/* Do fragments to this address have to follow their first? Not inlined, because the callers' stack is
 * full. */
static __noinline bool uplink_follows(const union ip *a)
{
	return host_addr(a) || subnet_find(a) & (SUBNET_REACHED | SUBNET_OWN);
}

/* Handles an ICMP error that arrived for the host. */
static __noinline int uplink_icmp_error(struct __sk_buff *skb, struct pkt *p)
{
	struct icmp_work *w = icmp_scratch();
	struct dest d = {};
	struct ct_entry *e;
	int err;

	if (!w || icmp_related(skb, p, 0, 0, w, &e) || !e) {
		if (cfg_vxlan_port && w)
			tunnel_learn(skb, p, &w->in);
		return uplink_to_host(skb, p, false);
	}
	if (icmp_redirects(p))
		return -DROP_BAD_ICMP;
	if (!e->out_if || e->flags & CT_F_STACK)
		return deliver_stack(skb, p, &w->to);
	if (p->ttl <= 1)
		return -DROP_TTL;
	err = dest_endpoint(&d, e->out_if, &w->to);
	return err ? err : deliver(skb, p, &d);
}

/* The packet is PACKET_HOST. */
static __noinline int do_from_uplink(struct __sk_buff *skb)
{
	struct ct_entry *e;
	struct tuple to;
	bool confirmed, again;
	__u32 out_if;
	struct pkt p;
	int err;

	if (skb->vlan_present) {
		if (vlan_id(skb))
			return VERDICT_NEXT; /* for a VLAN device, if any */
		err = vlan_untag(skb);
		if (err)
			return err;
	}
	if (!is_ip(skb->protocol))
		return is_vlan(skb->protocol) ? -DROP_VLAN : VERDICT_NEXT;
	if (cfg_vxlan_port) {
		__u32 l4 = tunnel_l4(skb);

		err = l4 ? tunnel_receive(skb, l4) : VERDICT_NEXT;
		if (err != VERDICT_NEXT)
			return err;
	}
	err = parse(skb, &p, skb->protocol);
	if (err == -DROP_MARTIAN)
		return err;
	if (p.flags & (PKT_FRAG_FIRST | PKT_FRAG_LATER) && uplink_follows(&p.t.daddr)) {
		err = frag_follow(skb, &p, err);
		if (err == TC_ACT_SHOT || err == -DROP_NAT_FAILED)
			return err;
	}
	/* The stack refuses a packet that cannot be parsed, but it must not reach a sandbox. */
	if (err || p.flags & PKT_ICMP_LOCAL)
		return uplink_to_host(skb, &p, false);
	if (p.flags & PKT_ICMP_ERROR)
		return uplink_icmp_error(skb, &p);
	e = ct_find_flow(&p, &confirmed);
	if (!e || e->in_if) {
		err = tunnel_odd(skb, &p);
		return err == VERDICT_NEXT ? uplink_begin(skb, &p) : err;
	}
	again = ct_chooses_again(&p, e);
	if (again || (begun_to_host(e) && publish_may_begin(&p))) {
		/* The host had the flow before the port was published, or the flow got no
		 * further, or it is closed. */
		flow_forget(&p.t, &e->xlat, again);
		return uplink_begin(skb, &p);
	}
	if (!e->out_if || e->flags & CT_F_STACK)
		return known_to_stack(skb, &p, e, confirmed);
	if (p.ttl <= 1)
		return uplink_ttl_exceeded(skb, &p);
	err = known_hit(skb, &p, e, confirmed, &to, &out_if);
	return err ? err : uplink_to_sandbox(skb, &p, &to, out_if);
}
