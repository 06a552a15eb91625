/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Packets from an endpoint to its gateway: into a sandbox, to the host, or out of it. Functions with
 * a struct dest return 0 when they have filled it in, else a verdict.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "config.h"
#include "count.h"
#include "ct.h"
#include "deliver.h"
#include "dest.h"
#include "direct.h"
#include "drop.h"
#include "egress.h"
#include "endpoint.h"
#include "fib.h"
#include "flow.h"
#include "flow_create.h"
#include "gateway_icmp.h"
#include "held.h"
#include "hostaddr.h"
#include "icmp.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "maglev.h"
#include "neigh.h"
#include "node.h"
#include "pkt.h"
#include "router.h"
#include "service.h"
#include "skb.h"
#include "source.h"
#include "subnet.h"
#include "track.h"
#include "tuple.h"
#include "uplink.h"
#include "vip.h"
#include "xlat_len.h"

/* Begins a flow of endpoint ep to backend b of service s. The backend sees its gateway as the
 * source. The client may be a neighbour of the backend or the backend itself, which would then
 * reply directly, and a neighbour may have its own flow to the backend with the same ports. */
static __always_inline int route_published(struct __sk_buff *skb, struct pkt *p,
					   const struct endpoint *ep, const struct service *s,
					   const struct backend *b, struct dest *d)
{
	struct flow *f;
	int err;

	if (!source_allowed(s, &p->t.saddr))
		return -DROP_PUBLISH_FROM;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	f = flow_prepare(p, b->net, skb->ifindex, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_publish(f, s, b, true);
	if (err)
		return err;
	err = flow_create(skb, p);
	if (err)
		return err;
	return dest_endpoint(d, b->ifindex, &f->e.xlat);
}

/* Begins a flow of endpoint ep to the outside. */
static __always_inline int route_outside(struct __sk_buff *skb, struct pkt *p,
					 const struct endpoint *ep, struct dest *d)
{
	bool masquerade = endpoint_masquerades(ep, p->flags & PKT_IP4);
	struct next_hop *hop;
	struct flow *f;
	int err;

	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	switch (route_find(skb, p, &p->t, ep->gateway_if, masquerade, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &p->t.daddr, hop->mtu, d);
	case ROUTE_STACK:
		return dest_host(d, ep, PATH_STACK);
	}
	if (hop->up_flags & UP_STACK)
		return dest_host(d, ep, PATH_STACK);
	f = flow_prepare(p, ep->net, skb->ifindex, 0);
	if (!f)
		return -DROP_CT_FULL;
	if (masquerade) {
		const union ip *src = egress_addr(ep, p->flags & PKT_IP4);

		if (!src)
			src = &hop->src;
		if (ip_is_zero(src))
			return -DROP_NO_UPLINK_ADDR;
		flow_masquerade(f, src);
	}
	err = flow_create(skb, p);
	if (err)
		return err;
	return dest_next_hop(d, hop, &f->e.xlat);
}

/* Handles a packet of a known flow from endpoint ep. VERDICT_NEXT: the flow is forgotten and begins
 * again. */
static __always_inline int route_known(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep, struct ct_entry *e,
				       bool confirmed, struct dest *d)
{
	struct icmp_work *w = icmp_scratch(); /* the stack is full */
	const union ip *egress;
	struct next_hop *hop;
	__u32 out_if = e->out_if;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	if (e->flags & CT_F_STACK)
		return dest_host(d, ep, PATH_STACK); /* to_uplink handles it then */
	w->to = e->xlat; /* copied, because confirming the flow frees the entry */
	/* A reply is routed from the address that the client used, as the host's own replies
	 * are. */
	if (ct_masqueraded(e))
		w->key = p->t;
	else
		w->key = e->xlat;
	err = ct_hit_cached(skb, p, e, confirmed, &w->to, out_if);
	if (err)
		return err;
	if (out_if)
		return dest_endpoint(d, out_if, &w->to);
	switch (route_find(skb, p, &w->key, ep->gateway_if, false, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &w->to.daddr, hop->mtu, d);
	case ROUTE_STACK:
		/* The stack would deliver a packet that must change its family to the host. */
		return xlat_needed(p, &w->to.daddr) ? -DROP_NO_ROUTE : dest_host(d, ep, PATH_STACK);
	}
	/* The route of a masqueraded flow must use the uplink with its address. Usually that is
	 * the uplink's first address; only otherwise is the expensive lookup needed. */
	if (ip_equal(&w->key.saddr, &w->to.saddr) || ip_equal(&hop->src, &w->to.saddr))
		return dest_next_hop(d, hop, &w->to);
	egress = egress_addr(ep, ip_is4(&w->to.saddr));
	if (egress && ip_equal(egress, &w->to.saddr))
		return dest_next_hop(d, hop, &w->to); /* by whatever uplink */
	if (cfg_fib_src && route_find(skb, p, &w->key, ep->gateway_if, true, &hop) != ROUTE_OK)
		return dest_host(d, ep, PATH_STACK);
	if (ip_equal(&hop->src, &w->to.saddr))
		return dest_next_hop(d, hop, &w->to);
	/* The address may come back, as IPv6 addresses do after their device was down. */
	if (ip_is_zero(&hop->src))
		return -DROP_NO_UPLINK_ADDR;
	/* The route moved to another uplink: replies to the old address would not come back
	 * (nf_nat_masquerade deletes such flows too). */
	flow_forget(&p->t, &w->to, false);
	return VERDICT_NEXT;
}

/* Handles a packet of no flow yet, from endpoint ep to the gateway's MAC, if it stays on the
 * host. VERDICT_NEXT: it leaves. VERDICT_VIP: it is for a service. VERDICT_DIRECT: for a member of
 * another network that may be reached. VERDICT_GATED: for the network's router. begins: it may begin a flow. */
static __always_inline int route_inside(struct __sk_buff *skb, struct pkt *p,
					const struct endpoint *ep, bool begins, struct dest *d)
{
	const union ip *dst = &p->t.daddr;
	struct neigh_entry *n;
	__u32 subnet, net;

	/* A group is not reached through the gateway's MAC. */
	if (ip_is_multicast(dst) || ip_is_unspecified(dst))
		return -DROP_MARTIAN;
	if (p->flags & PKT_ICMP_LOCAL && !ip_equal(dst, &ep->gw6) && !ip_is_linklocal6(dst))
		return -DROP_BAD_ICMP;
	if (ip_equal(dst, &ep->gw4) || ip_equal(dst, &ep->gw6) || host_addr(dst)) {
		if (ep->flags & EP_INTERNAL) {
			/* The host is reachable through this network's gateway only. */
			if (!ip_equal(dst, &ep->gw4) && !ip_equal(dst, &ep->gw6))
				return -DROP_INTERNAL;
		} else if (begins && publish_may_begin(p)) {
			struct service *s = service_find(dst, p->t.dport, p->t.proto);
			struct backend *b = service_backend(s, &p->t);

			if (b)
				return route_published(skb, p, ep, s, b, d);
		}
		return dest_host(d, ep, PATH_REDIRECT);
	}
	subnet = subnet_find(dst);
	net = subnet & SUBNET_NET;
	if (net && net != ep->net)
		return begins && subnet & SUBNET_REACHED &&
				       !(ep->flags & (EP_INTERNAL | EP_GATED)) ?
			       VERDICT_DIRECT :
			       -DROP_ISOLATED;
	if (net) {
		/* Routed to a member through the gateway, by the members' rules. */
		if (!neigh_local(dst, net, &n) && !cfg_vxlan_port)
			return -DROP_NO_MEMBER;
		if (!(ep->flags & (EP_ICC | EP_HOSTPORT)))
			return -DROP_ICC;
		if (p->ttl <= 1)
			return ttl_exceeded(skb, p, ep);
		if (!n)
			return dest_via(VIA(net, 0), &p->t); /* on another node, if anywhere */
		if (n->flags & EP_SERVICE)
			return begins ? VERDICT_VIP : -DROP_BAD_ICMP;
		return dest_endpoint(d, n->ifindex, NULL);
	}
	if (ip_is_loopback(dst))
		return -DROP_LOOPBACK;
	if (ep->flags & EP_INTERNAL)
		return -DROP_INTERNAL;
	if (ip_is_linklocal6(dst) || ip_is_linklocal6(&p->t.saddr))
		return dest_host(d, ep, PATH_REDIRECT);
	if (ep->flags & EP_GATED)
		return VERDICT_GATED;
	return VERDICT_NEXT;
}

static __noinline int route_new(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	struct dest d = {};
	int verdict = route_inside(skb, p, ep, true, &d);

	if (verdict == VERDICT_NEXT)
		verdict = route_outside(skb, p, ep, &d);
	return verdict ? verdict : deliver(skb, p, &d);
}

/* Begins a flow of endpoint ep to a member of another network, which sees its own gateway as the
 * source, unless ep's packets leave with their own address anyway. */
static __noinline int route_direct(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	bool is4 = p->flags & PKT_IP4;
	struct endpoint *to;
	const union ip *gw;
	struct dest d = {};
	struct flow *f;
	int err;

	err = direct_prepare(p, skb->ifindex);
	if (err)
		return err == -DROP_DIRECT ? -DROP_ISOLATED : err;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	f = flow_scratch();
	if (!f)
		return -DROP_CT_FULL;
	if (endpoint_masquerades(ep, is4)) {
		to = endpoint_find(f->e.out_if);
		if (!to)
			return -DROP_ENDPOINT_GONE;
		gw = is4 ? &to->gw4 : &to->gw6;
		if (ip_is_zero(gw))
			return -DROP_NO_UPLINK_ADDR;
		flow_from_gateway(f, gw);
	}
	err = flow_create(skb, p);
	if (!err)
		err = dest_endpoint(&d, f->e.out_if, &f->e.xlat);
	return err ? err : deliver(skb, p, &d);
}

/* Handles ICMP error p of endpoint ep that matches no flow. It can be about a packet that
 * reached ep without a flow, from the host or from a network that the host's stack forwards
 * for: then it returns to that packet's sender. in: the packet that it embeds. */
static __always_inline int route_stray_error(struct __sk_buff *skb, struct pkt *p,
					     const struct endpoint *ep, const struct pkt *in,
					     struct dest *d)
{
	struct next_hop *hop;
	int verdict;

	if (!ip_equal(&in->t.saddr, &p->t.daddr))
		return -DROP_BAD_ICMP;
	if (ep->flags & EP_ANTISPOOF && !ip_equal(&in->t.daddr, &p->t.saddr))
		return -DROP_BAD_ICMP;
	verdict = route_inside(skb, p, ep, false, d);
	if (verdict != VERDICT_NEXT)
		return verdict;
	if (route_find(skb, p, &p->t, ep->gateway_if, false, &hop) == ROUTE_STACK)
		return dest_host(d, ep, PATH_STACK);
	return -DROP_BAD_ICMP;
}

/* Decides where an ICMP error from endpoint ep goes. */
static __always_inline int icmp_error_dest(struct __sk_buff *skb, struct pkt *p,
					   const struct endpoint *ep, struct dest *d)
{
	struct icmp_work *w = icmp_scratch();
	const struct tuple *by;
	struct next_hop *hop;
	struct ct_entry *e;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	err = icmp_related(skb, p, skb->ifindex, skb->ifindex, w, &e);
	if (err)
		return err;
	if (!e)
		return route_stray_error(skb, p, ep, &w->in, d);
	if (icmp_redirects(p))
		return -DROP_BAD_ICMP;
	if (p->ttl <= 1)
		return -DROP_TTL;
	if (e->out_if)
		return dest_endpoint(d, e->out_if, &w->to);
	by = ct_masqueraded(e) ? &p->t : &w->to;
	if (route_find(skb, p, by, ep->gateway_if, false, &hop) != ROUTE_OK)
		return -DROP_NO_ROUTE;
	return dest_next_hop(d, hop, &w->to);
}

static __noinline int route_icmp_error(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep)
{
	struct dest d = {};
	int verdict = icmp_error_dest(skb, p, ep, &d);

	return verdict ? verdict : deliver(skb, p, &d);
}

/* route_from_endpoint handles an IP packet to the gateway's MAC, or to that of a service. */
__noinline int route_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep,
				   __be16 eth_proto)
{
	struct dest d = {};
	struct ct_entry *e;
	bool confirmed;
	struct pkt p;
	int err;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	/* Later fragments follow their first, whatever its verdict. */
	err = frag_follow(skb, &p, parse(skb, &p, eth_proto));
	if (err)
		return err;
	if (p.flags & PKT_ICMP_ERROR) {
		err = route_icmp_error(skb, &p, ep);
		return err == VERDICT_GATED ? route_gated(skb, &p, ep) : err;
	}
	e = ct_find_flow(&p, &confirmed);
	if (e && e->in_if == skb->ifindex && !ct_chooses_again(&p, e)) {
		err = route_known(skb, &p, ep, e, confirmed, &d);
		if (err != VERDICT_NEXT)
			return err ? err : deliver_known(skb, &p, &d, ep->net);
	} else if (e) {
		/* The flow of an endpoint that had this address before, or a closed one. */
		flow_forget(&p.t, &e->xlat, e->in_if == skb->ifindex);
	}
	err = route_new(skb, &p, ep);
	/* The stack is too small to do these in route_new. */
	if (err == VERDICT_DIRECT)
		return route_direct(skb, &p, ep);
	if (err == VERDICT_GATED)
		return route_gated(skb, &p, ep);
	return err == VERDICT_VIP ? route_vip(skb, &p, ep) : err;
}
