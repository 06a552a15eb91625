/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Packets from an endpoint to its gateway: into a sandbox, to the host, or out of it. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "config.h"
#include "count.h"
#include "ct.h"
#include "deliver.h"
#include "drop.h"
#include "endpoint.h"
#include "fib.h"
#include "flow.h"
#include "flow_create.h"
#include "held.h"
#include "hostaddr.h"
#include "icmp.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "icmp_send.h"
#include "neigh.h"
#include "parse.h"
#include "pkt.h"
#include "publish.h"
#include "subnet.h"
#include "track.h"
#include "tuple.h"
#include "uplink.h"
#include "xlat.h"

/* Sends an ICMP error from the gateway to the sender in ep's network. */
static __always_inline int send_icmp_error(struct __sk_buff *skb, const struct pkt *p,
					   const struct endpoint *ep, __u32 kind, __u32 mtu,
					   int refusal)
{
	const union ip *src = p->flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;

	return icmp_refuse(skb, p, src, kind, mtu, refusal);
}

static __always_inline int ttl_exceeded(struct __sk_buff *skb, const struct pkt *p,
					const struct endpoint *ep)
{
	return send_icmp_error(skb, p, ep, icmp_time_exceeded(p), 0, -DROP_TTL);
}

/* Handles packet p that is larger than the MTU of the route to *daddr. */
static __always_inline int too_big(struct __sk_buff *skb, const struct pkt *p,
				   const struct endpoint *ep, const union ip *daddr, __u32 mtu)
{
	mtu -= xlat_len(p, daddr) - p->len; /* as the sender counts it */
	if (!(p->flags & PKT_IP4))
		return send_icmp_error(skb, p, ep, ICMP_KIND(ICMPV6_PKT_TOOBIG, 0), mtu,
				       -DROP_TOO_BIG);
	/* The stack fragments packets without DF, unless they become IPv6. */
	if (!(p->flags & PKT_DF) && ip_is4(daddr))
		return to_stack(skb, ep);
	return send_icmp_error(skb, p, ep, ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED), mtu,
			       -DROP_TOO_BIG);
}

/* Begins a flow of endpoint ep to publish b. The backend sees its gateway as the source. The
 * client may be a neighbour of the backend or the backend itself, which would then reply
 * directly, and a neighbour may have its own flow to the backend with the same ports. */
static __always_inline int route_published(struct __sk_buff *skb, struct pkt *p,
					   const struct endpoint *ep, const struct publish *b)
{
	struct flow *f;
	int err;

	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	f = flow_prepare(p, b->net, skb->ifindex, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_publish(f, b, true);
	if (err)
		return err;
	err = flow_create(skb, p);
	if (err)
		return err;
	return route_to_sandbox(skb, p, &f->e.xlat, b->ifindex);
}

/* Begins a flow of endpoint ep to the outside. */
static __always_inline int route_outside(struct __sk_buff *skb, struct pkt *p,
					 const struct endpoint *ep)
{
	struct next_hop *hop;
	struct flow *f;
	int err;

	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	switch (route_find(skb, p, &p->t, ep->gateway_if, ep->flags & EP_MASQUERADE, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &p->t.daddr, hop->mtu);
	case ROUTE_STACK:
		return to_stack(skb, ep);
	}
	if (hop->up_flags & UP_STACK)
		return to_stack(skb, ep);
	f = flow_prepare(p, ep->net, skb->ifindex, 0);
	if (!f)
		return -DROP_CT_FULL;
	if (ep->flags & EP_MASQUERADE) {
		if (ip_is_zero(&hop->src))
			return -DROP_NO_UPLINK_ADDR;
		flow_masquerade(f, &hop->src);
	}
	err = flow_create(skb, p);
	if (err)
		return err;
	return to_next_hop(skb, p, &f->e.xlat, hop);
}

/* Handles a packet of a known flow from endpoint ep. */
static __always_inline int route_known(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep, struct ct_entry *e,
				       bool confirmed)
{
	struct icmp_work *w = icmp_scratch(); /* the stack is full */
	struct next_hop *hop;
	/* Copied, because confirming the flow frees the entry. */
	struct tuple to = e->xlat;
	__u32 out_if = e->out_if;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	if (e->flags & CT_F_STACK)
		return to_stack(skb, ep); /* to_uplink handles it then */
	/* A reply is routed from the address that the client used, as the host's own replies
	 * are. */
	if (ct_masqueraded(e))
		w->key = p->t;
	else
		w->key = e->xlat;
	err = ct_hit(p, e, confirmed);
	if (err)
		return err;
	if (out_if)
		return route_to_sandbox(skb, p, &to, out_if);
	switch (route_find(skb, p, &w->key, ep->gateway_if, false, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &to.daddr, hop->mtu);
	case ROUTE_STACK:
		/* The stack would deliver a packet that must change its family to the host. */
		return xlat_needed(p, &to.daddr) ? -DROP_NO_ROUTE : to_stack(skb, ep);
	}
	/* The route of a masqueraded flow must use the uplink with its address. Usually that is
	 * the uplink's first address; only otherwise is the expensive lookup needed. */
	if (ip_equal(&w->key.saddr, &to.saddr) || ip_equal(&hop->src, &to.saddr))
		return to_next_hop(skb, p, &to, hop);
	if (cfg_fib_src && route_find(skb, p, &w->key, ep->gateway_if, true, &hop) != ROUTE_OK)
		return to_stack(skb, ep);
	if (ip_equal(&hop->src, &to.saddr))
		return to_next_hop(skb, p, &to, hop);
	/* The address may come back, as IPv6 addresses do after their device was down. */
	if (ip_is_zero(&hop->src))
		return -DROP_NO_UPLINK_ADDR;
	/* The route moved to another uplink: replies to the old address would not come back
	 * (nf_nat_masquerade deletes such flows too). */
	flow_forget(&p->t, &to);
	return route_outside(skb, p, ep);
}

/* Handles a packet of no flow yet, from endpoint ep to the gateway's MAC, if it stays on the
 * host. VERDICT_NEXT: it leaves. begins: it may begin a flow. */
static __always_inline int route_inside(struct __sk_buff *skb, struct pkt *p,
					const struct endpoint *ep, bool begins)
{
	const union ip *dst = &p->t.daddr;
	struct neigh_entry *n;
	__u32 net;

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
			struct publish *b = publish_find(dst, p->t.dport, p->t.proto);

			if (b)
				return route_published(skb, p, ep, b);
		}
		return to_host_port(skb, ep->hostport_if, ep->net, PATH_REDIRECT);
	}
	net = subnet_of(dst);
	if (net && net != ep->net)
		return -DROP_ISOLATED;
	if (net) {
		/* Routed to a member through the gateway, by the members' rules. */
		if (!neigh_find(dst, net, &n))
			return -DROP_NO_MEMBER;
		if (!(ep->flags & EP_ICC))
			return -DROP_ICC;
		if (p->ttl <= 1)
			return ttl_exceeded(skb, p, ep);
		return route_to_sandbox(skb, p, &p->t, n->ifindex);
	}
	if (ip_is_loopback(dst))
		return -DROP_LOOPBACK;
	if (ep->flags & EP_INTERNAL)
		return -DROP_INTERNAL;
	if (ip_is_linklocal6(dst) || ip_is_linklocal6(&p->t.saddr))
		return to_host_port(skb, ep->hostport_if, ep->net, PATH_REDIRECT);
	return VERDICT_NEXT;
}

static __noinline int route_new(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	int verdict = route_inside(skb, p, ep, true);

	return verdict == VERDICT_NEXT ? route_outside(skb, p, ep) : verdict;
}

/* Handles ICMP error p of endpoint ep that matches no flow. It can be about a packet that
 * reached ep without a flow, from the host or from a network that the host's stack forwards
 * for: then it returns to that packet's sender. in: the packet that it embeds. */
static __always_inline int route_stray_error(struct __sk_buff *skb, struct pkt *p,
					     const struct endpoint *ep, const struct pkt *in)
{
	struct next_hop *hop;
	int verdict;

	if (!ip_equal(&in->t.saddr, &p->t.daddr))
		return -DROP_BAD_ICMP;
	if (ep->flags & EP_ANTISPOOF && !ip_equal(&in->t.daddr, &p->t.saddr))
		return -DROP_BAD_ICMP;
	verdict = route_inside(skb, p, ep, false);
	if (verdict != VERDICT_NEXT)
		return verdict;
	if (route_find(skb, p, &p->t, ep->gateway_if, false, &hop) == ROUTE_STACK)
		return to_stack(skb, ep);
	return -DROP_BAD_ICMP;
}

/* Handles an ICMP error from endpoint ep. */
static __noinline int route_icmp_error(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep)
{
	struct icmp_work *w = icmp_scratch();
	const struct tuple *by;
	struct next_hop *hop;
	struct ct_entry *e;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	err = icmp_related(skb, p, skb->ifindex, w, &e);
	if (err)
		return err;
	if (!e)
		return route_stray_error(skb, p, ep, &w->in);
	if (icmp_redirects(p))
		return -DROP_BAD_ICMP;
	if (p->ttl <= 1)
		return -DROP_TTL;
	if (e->out_if)
		return route_to_sandbox(skb, p, &w->to, e->out_if);
	by = ct_masqueraded(e) ? &p->t : &w->to;
	if (route_find(skb, p, by, ep->gateway_if, false, &hop) != ROUTE_OK)
		return -DROP_NO_ROUTE;
	return to_next_hop(skb, p, &w->to, hop);
}

/* route_from_endpoint handles an IP packet to the gateway's MAC. */
__noinline int route_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep,
				   __be16 eth_proto)
{
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
	if (p.flags & PKT_ICMP_ERROR)
		return route_icmp_error(skb, &p, ep);
	e = ct_find(&p.t, &confirmed);
	if (e && e->in_if == skb->ifindex)
		return route_known(skb, &p, ep, e, confirmed);
	/* The flow of an endpoint that had this address before. */
	if (e)
		flow_forget(&p.t, &e->xlat);
	return route_new(skb, &p, ep);
}
