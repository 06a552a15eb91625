/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Frames from a member of a network to the MAC of another. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "config.h"
#include "ct.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "gateway.h"
#include "gateway_icmp.h"
#include "held.h"
#include "hostflow.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "node.h"
#include "pair_use.h"
#include "pkt.h"
#include "skb.h"
#include "track.h"
#include "tunnel.h"
#include "tuple.h"

/* Handles an ICMP error of a backend to a client of its own network that used the virtual address
 * of a service. */
static __noinline int published_error(struct __sk_buff *skb, struct pkt *p)
{
	struct icmp_work *w = icmp_scratch();
	struct dest d = {};
	struct ct_entry *e;
	int err;

	if (!w || p->ttl <= 1 || icmp_related(skb, p, skb->ifindex, skb->ifindex, w, &e) || !e ||
	    !e->out_if)
		return VERDICT_NEXT;
	err = dest_endpoint(&d, e->out_if, &w->to);
	return err ? err : deliver(skb, p, &d);
}

/* Handles a backend's reply to a client of its own network that used a published address, or the
 * virtual address of a service. The reply must be translated, although it is addressed to a
 * member. */
__noinline int published_answer(struct __sk_buff *skb, const struct endpoint *ep, __be16 eth_proto)
{
	struct dest d = {};
	struct ct_entry *e;
	struct tuple to;
	bool confirmed;
	__u32 out_if;
	struct pkt p;
	int err;

	err = frag_follow(skb, &p, parse(skb, &p, eth_proto));
	if (err == TC_ACT_SHOT || err == -DROP_NAT_FAILED)
		return err;
	if (err || p.flags & PKT_ICMP_LOCAL)
		return VERDICT_NEXT;
	if (p.flags & PKT_ICMP_ERROR)
		return published_error(skb, &p);
	e = ct_find(&p.t, &confirmed);
	if (!e || e->in_if != skb->ifindex || !e->out_if)
		return VERDICT_NEXT;
	if (p.ttl <= 1)
		return ep ? ttl_exceeded(skb, &p, ep) : -DROP_TTL;
	err = known_hit(skb, &p, e, confirmed, &to, &out_if);
	if (!err)
		err = dest_endpoint(&d, out_if, &to);
	return err ? err : deliver_known(skb, &p, &d, 0);
}

/* Bridges a frame to a MAC that no member on this host has. */
static __always_inline int bridge_remote(struct __sk_buff *skb, const struct endpoint *ep,
					 const struct ethhdr *eth)
{
	struct fdb_entry *dst;
	int verdict;

	if (!cfg_vxlan_port)
		return -DROP_NO_MEMBER;
	dst = fdb_remote(ep->net, eth->h_dest);
	if (!dst)
		return -DROP_NO_MEMBER;
	if (!(ep->flags & (EP_ICC | EP_HOSTPORT)))
		return -DROP_ICC;
	if (ep->flags & EP_REMOTE_POOL && is_ip(eth->h_proto) && gateway_port(skb, eth->h_proto)) {
		verdict = host_to_member(skb, eth->h_proto, ep->net, VIA(ep->net, 0),
					 ep->flags & EP_HOSTPORT);
		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	return tunnel_send(skb, ep, dst->node, TUNNEL_FRAME);
}

/* Bridges a frame to the MAC of a member; an unknown MAC is refused. */
static __always_inline int bridge(struct __sk_buff *skb, const struct endpoint *ep,
				  const struct ethhdr *eth)
{
	struct fdb_entry *dst = fdb_local(ep->net, eth->h_dest);
	struct dest d = {};

	if (!dst)
		return bridge_remote(skb, ep, eth);
	if (dst->ifindex == skb->ifindex)
		return -DROP_NO_MEMBER;
	dest_member(&d, dst, ep->net);
	if (d.kind == DEST_HOST_PORT)
		return deliver(skb, NULL, &d);
	if (dst->flags & EP_SERVICE)
		return is_ip(eth->h_proto) ? route_from_endpoint(skb, ep, eth->h_proto) :
					     -DROP_NO_MEMBER;
	if (!(ep->flags & (EP_ICC | EP_HOSTPORT)))
		return -DROP_ICC;
	if (!is_ip(eth->h_proto))
		return deliver(skb, NULL, &d);
	if (!(dst->flags & (ep->flags & EP_HOSTPORT ? EP_PUBLISHED | EP_REACHED : EP_POOL))) {
		if (cfg_cache && !(ep->flags & EP_PUBLISHED))
			pair_complete(skb, &d);
	} else if (gateway_port(skb, eth->h_proto)) {
		int verdict = host_to_member(skb, eth->h_proto, ep->net, d.ifindex,
					     ep->flags & EP_HOSTPORT);

		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	return deliver(skb, NULL, &d);
}
