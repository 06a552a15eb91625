/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A member of a network as the router of the others, which have EP_GATED: what they begin outside of
 * the network goes to it, untranslated, or nowhere. Its packets for them may have any source outside.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "gateway_icmp.h"
#include "hostaddr.h"
#include "neigh.h"
#include "pkt.h"
#include "subnet.h"

/* The packet is for the network's router. */
#define VERDICT_GATED (VERDICT_NEXT + 3)

/* The router of a network, or NULL while it is not there. */
static __always_inline struct neigh_entry *router_of(__u32 net)
{
	struct neigh_key k = { .net = net, .router = 1 };

	return bpf_map_lookup_elem(&fl_neigh, &k);
}

/* Handles a packet of gated endpoint ep that leaves its network. */
static __noinline int route_gated(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	struct neigh_entry *n = router_of(ep->net);
	struct dest d = {};
	int err;

	if (!n)
		return -DROP_NO_GATEWAY;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	err = dest_endpoint(&d, n->ifindex, NULL);
	return err ? err : deliver(skb, p, &d);
}

/* Is a frame of endpoint ep, whose source address is not its own, one of its network's router that
 * brings a member a packet from outside? Not inlined: few frames come here. */
static __noinline bool routed_inside(struct __sk_buff *skb, const struct endpoint *ep,
				     __be16 eth_proto)
{
	union ip src = {}, dst = {};
	struct neigh_entry *n;

	if (!ep)
		return false;
	n = router_of(ep->net);
	if (!n || n->ifindex != skb->ifindex)
		return false;
	if (eth_proto == bpf_htons(ETH_P_IP)) {
		ip_set4(&src, 0);
		ip_set4(&dst, 0);
		if (bpf_skb_load_bytes(skb, L3 + 12, &src.w[3], 4) ||
		    bpf_skb_load_bytes(skb, L3 + 16, &dst.w[3], 4))
			return false;
	} else if (bpf_skb_load_bytes(skb, L3 + 8, &src, sizeof(src)) ||
		   bpf_skb_load_bytes(skb, L3 + 24, &dst, sizeof(dst))) {
		return false;
	}
	if (ip_is_unspecified(&src) || ip_is_multicast(&src) || ip_is_loopback(&src) ||
	    ip_is_linklocal6(&src) || subnet_of(&src) || host_addr(&src))
		return false;
	return neigh_local(&dst, ep->net, &n) && !(n->flags & (EP_HOSTPORT | EP_SERVICE));
}
