/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Translating, routing and sending a packet to its destination (dest.h). */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "ct.h"
#include "decision_make.h"
#include "dest.h"
#include "drop.h"
#include "nat.h"
#include "pkt.h"
#include "send.h"
#include "skb.h"
#include "track.h"
#include "tuple.h"

/* Decrements the hop limit. */
static __always_inline int decrement_ttl(struct __sk_buff *skb, const struct pkt *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u32 sum;

	if (!(p->flags & PKT_IP4)) {
		if (!have(skb, L3 + sizeof(*ip6)))
			return -DROP_NAT_FAILED;
		ip6 = DATA(skb, L3);
		if ((void *)(ip6 + 1) > DATA_END(skb))
			return -DROP_NAT_FAILED;
		ip6->hop_limit = p->ttl - 1;
		/* IPv6 has no header checksum to balance it (CHECKSUM_COMPLETE): the 16-bit
		 * word whose lower byte it is decreases by one. */
		bpf_csum_update(skb, (__u32)~bpf_htons(1));
		return 0;
	}
	if (!have(skb, L3 + sizeof(*ip)))
		return -DROP_NAT_FAILED;
	ip = DATA(skb, L3);
	if ((void *)(ip + 1) > DATA_END(skb))
		return -DROP_NAT_FAILED;
	/* RFC 1141: TTL is the upper byte of its 16-bit word. */
	sum = ip->check + bpf_htons(0x0100);
	ip->check = sum + (sum >= 0xffff);
	ip->ttl = p->ttl - 1;
	return 0;
}

static __always_inline int set_macs(struct __sk_buff *skb, const __u8 *dmac, const __u8 *smac)
{
	struct ethhdr *eth;

	if (!have(skb, sizeof(*eth)))
		return -DROP_NAT_FAILED;
	eth = DATA(skb, 0);
	if ((void *)(eth + 1) > DATA_END(skb))
		return -DROP_NAT_FAILED;
	__builtin_memcpy(eth->h_dest, dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, smac, ETH_ALEN);
	return 0;
}

/* deliver sends packet p to *d, translated and routed as *d says. Returns a verdict. p may be NULL
 * if the packet is neither. */
static __always_inline int deliver(struct __sk_buff *skb, struct pkt *p, const struct dest *d)
{
	int err = 0;

	if (d->to)
		err = nat_rewrite(skb, p, d->to);
	if (!err && (d->ep || d->kind == DEST_NEXT_HOP))
		err = decrement_ttl(skb, p);
	if (!err && d->ep)
		err = set_macs(skb, d->ep->mac, d->ep->gw_mac);
	if (err)
		return err;
	/* Not by its kind: the verifier forgets what it is. */
	if (d->hop)
		return send_next_hop(skb, d->hop->ifindex, &d->hop->nh, next_hop_mark(d->hop));
	if (d->kind == DEST_STACK)
		return VERDICT_NEXT;
	return send_device(skb, d);
}

/* As deliver, for a packet of a known flow, which was seen by ct_hit_cached: caches the decision. net: if
 * *d is a next hop, the network index that it was accounted to as it arrived. */
static __always_inline int deliver_known(struct __sk_buff *skb, struct pkt *p, const struct dest *d,
					 __u32 net)
{
	if (cfg_cache && p->flags & PKT_STEADY && d->to) {
		if (d->hop)
			decision_next_hop(skb, p, d->to, d->hop, net);
		else if (d->ep)
			decision_endpoint(skb, p, d->to, d->ep, d->ifindex);
	}
	return deliver(skb, p, d);
}

/* Leaves the packet, translated to *to, to the host's stack. */
static __always_inline int deliver_stack(struct __sk_buff *skb, struct pkt *p,
					 const struct tuple *to)
{
	struct dest d = { .to = to };

	return deliver(skb, p, &d);
}

/* Handles a packet of a known flow whose other end is the host's stack or beyond it. */
static __always_inline int known_to_stack(struct __sk_buff *skb, struct pkt *p, struct ct_entry *e,
					  bool confirmed)
{
	struct tuple to = e->xlat;
	int err = ct_hit(p, e, confirmed);

	return err ? err : deliver_stack(skb, p, &to);
}
