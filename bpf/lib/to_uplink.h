/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What becomes of a packet that the host's stack sends to an uplink. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "config.h"
#include "ct.h"
#include "deliver.h"
#include "drop.h"
#include "egress.h"
#include "endpoint.h"
#include "fib.h"
#include "flow.h"
#include "flow_create.h"
#include "frag.h"
#include "hostaddr.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "neigh.h"
#include "netfilter.h"
#include "pkt.h"
#include "skb.h"
#include "subnet.h"
#include "tuple.h"
#include "uplink.h"

/* The address to masquerade with. It is the one that from_endpoint would choose, so that a flow
 * keeps it on either path. */
static __always_inline void masquerade_source(struct __sk_buff *skb, const struct pkt *p,
					      const struct endpoint *ep, const struct uplink *up,
					      union ip *src)
{
	const union ip *egress = egress_addr(ep, p->flags & PKT_IP4);
	struct next_hop *hop;

	if (egress) {
		*src = *egress;
		return;
	}
	*src = p->flags & PKT_IP4 ? up->ip4 : up->ip6;
	if (cfg_fib_src && route_find(skb, p, &p->t, ep->gateway_if, true, &hop) == ROUTE_OK &&
	    hop->ifindex == skb->ifindex)
		*src = hop->src;
}

/* Marks a packet that was translated here, so that lower devices of this uplink do not
 * translate it again. */
static __always_inline void translated_above(struct __sk_buff *skb, const struct uplink *up)
{
	__u32 below = up->flags / UP_BELOW & UP_BELOW_MAX;

	if (below)
		skb->mark = cfg_mark + below - 1;
}

/* Did an uplink above this one, or from_endpoint, translate the packet? *lan: a member on this link may be
 * the receiver. */
static __always_inline bool is_translated(struct __sk_buff *skb, bool *lan)
{
	__u32 below = skb->mark - cfg_mark;

	if (below > (UP_MARK_LAN | UP_BELOW_MAX))
		return false;
	*lan = below & UP_MARK_LAN;
	below &= UP_BELOW_MAX;
	skb->mark = below ? cfg_mark + below - 1 : 0;
	return true;
}

/* Lets the packet leave, translated to *to. */
static __always_inline int leave_translated(struct __sk_buff *skb, struct pkt *p,
					    const struct tuple *to, const struct uplink *up)
{
	int verdict = deliver_stack(skb, p, to);

	if (verdict == VERDICT_NEXT)
		translated_above(skb, up);
	return verdict;
}

/* Creates the prepared flow of a packet that the stack routed to this uplink. */
static __always_inline int flow_from_stack(struct __sk_buff *skb, struct pkt *p, struct flow *f,
					   const struct uplink *up)
{
	int err = flow_create(skb, p);

	if (err)
		return err;
	return leave_translated(skb, p, &f->e.xlat, up);
}

/* Masquerades a packet from endpoint ep that the stack routed to this uplink. */
static __always_inline int masquerade_from_stack(struct __sk_buff *skb, struct pkt *p,
						 const struct endpoint *ep, __u32 ep_if,
						 const struct uplink *up)
{
	bool host = ep->flags & EP_HOSTPORT;
	struct flow *f = flow_prepare(p, ep->net, host ? 0 : ep_if, 0);
	union ip src;

	if (!f)
		return -DROP_CT_FULL;
	if (ep->flags & EP_INTERNAL)
		return -DROP_INTERNAL;
	if (ep->flags & EP_GATED)
		return -DROP_NO_GATEWAY;
	if (!host && (up->flags & UP_STACK || nf_translates(skb, &p->t))) {
		/* A port that Docker publishes for its own networks, or one of its containers
		 * itself. Netfilter masquerades it, too: where it sees bridged packets, it sees
		 * the reply before from_uplink does. */
		f->e.flags = CT_F_STACK;
		return flow_from_stack(skb, p, f, up);
	}
	if (endpoint_masquerades(ep, p->flags & PKT_IP4)) {
		masquerade_source(skb, p, ep, up, &src);
		if (ip_is_zero(&src))
			return -DROP_NO_UPLINK_ADDR;
		flow_masquerade(f, &src);
	}
	/* The host itself sends from a gateway address, so the reply is for its stack. */
	if (host)
		f->e.flags = CT_F_HOST;
	return flow_from_stack(skb, p, f, up);
}

/* If the replies to a flow of the host would match a masqueraded flow, changes the source port
 * of the host's flow. */
static __always_inline int avoid_collision(struct __sk_buff *skb, struct pkt *p,
					   const struct uplink *up)
{
	struct flow *f;
	struct tuple answer;
	bool confirmed;

	tuple_reverse(&answer, &p->t);
	if (!ct_find(&answer, &confirmed))
		return VERDICT_NEXT;
	f = flow_prepare(p, 0, 0, 0);
	if (!f)
		return -DROP_CT_FULL;
	f->e.flags = CT_F_HOST;
	f->host_src = 1;
	return flow_from_stack(skb, p, f, up);
}

/* A packet that cannot be translated may leave if the host sent it. A sandbox's would leave
 * with a source address that nothing outside can reply to. */
static __always_inline int pass_unless_sandbox(const struct pkt *p, const struct uplink *up,
					       int refusal)
{
	const union ip *src = &p->t.saddr;

	if (ip_equal(src, &up->ip4) || ip_equal(src, &up->ip6) || !subnet_of(src) || host_addr(src))
		return VERDICT_NEXT;
	return refusal;
}

/* Handles an ICMP error that the stack sends. The host's own may be about a reply to a flow
 * that left with another source (avoid_collision, masquerade_from_stack). */
static __noinline int icmp_error_leaves(struct __sk_buff *skb, struct pkt *p,
					const struct uplink *up)
{
	struct icmp_work *w = icmp_scratch();
	struct ct_entry *e;

	if (!w || icmp_related(skb, p, 0, 0, w, &e) || !e)
		return pass_unless_sandbox(p, up, -DROP_BAD_ICMP);
	return leave_translated(skb, p, &w->to, up);
}

/* Is e a flow masqueraded with an address that this uplink would not choose, because the route
 * moved here? Replies to the old address would not come back (route_known does the same). */
static __always_inline bool route_moved(struct __sk_buff *skb, const struct pkt *p,
					const struct ct_entry *e, const struct uplink *up)
{
	const union ip *old = &e->xlat.saddr;
	struct endpoint *ep;
	union ip src;

	if ((e->flags & (CT_F_NAT_SRC | CT_F_REPLY | CT_F_HOST)) != CT_F_NAT_SRC)
		return false;
	if (ip_equal(old, &up->ip4) || ip_equal(old, &up->ip6))
		return false;
	ep = endpoint_find(e->in_if);
	if (!ep)
		return false;
	masquerade_source(skb, p, ep, up, &src);
	/* The uplink may have no address for the moment, because its device is down; it may
	 * come back. */
	return !ip_is_zero(&src) && !ip_equal(old, &src);
}

static __always_inline int do_to_uplink(struct __sk_buff *skb, struct uplink *up)
{
	__u32 net;
	struct neigh_entry *n;
	struct endpoint *ep;
	struct ct_entry *e;
	bool confirmed;
	struct pkt p;
	int err;

	if (!up || !is_ip(skb->protocol))
		return VERDICT_NEXT;
	err = parse(skb, &p, skb->protocol);
	if (err)
		return pass_unless_sandbox(&p, up, err);
	frag_remember(&p); /* the stack sends them in order */
	if (p.flags & PKT_ICMP_LOCAL)
		return pass_unless_sandbox(&p, up, -DROP_BAD_ICMP);
	if (p.flags & PKT_ICMP_ERROR)
		return icmp_error_leaves(skb, &p, up);
	e = ct_find(&p.t, &confirmed);
	if (e) {
		if (!route_moved(skb, &p, e, up)) {
			err = known_to_stack(skb, &p, e, confirmed);
			if (err == VERDICT_NEXT)
				translated_above(skb, up);
			return err;
		}
		flow_forget(&p.t, &e->xlat, false);
	}
	if (ip_equal(&p.t.saddr, &up->ip4) || ip_equal(&p.t.saddr, &up->ip6))
		return avoid_collision(skb, &p, up);
	net = subnet_of(&p.t.saddr);
	if (!net)
		return avoid_collision(skb, &p, up);
	if (!neigh_local(&p.t.saddr, net, &n))
		return -DROP_ENDPOINT_GONE;
	ep = endpoint_find(n->ifindex);
	if (!ep)
		return -DROP_ENDPOINT_GONE;
	return masquerade_from_stack(skb, &p, ep, n->ifindex, up);
}
