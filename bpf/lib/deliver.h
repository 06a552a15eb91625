/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Sending a packet to its destination (dest.h). This counts its path. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "count.h"
#include "ct.h"
#include "dest.h"
#include "drop.h"
#include "fib.h"
#include "nat.h"
#include "pkt.h"
#include "skb.h"
#include "track.h"
#include "tuple.h"
#include "uplink.h"

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

/* Sends the packet to the device of a sandbox or of a host port. The sandbox must not see marks of
 * the host. */
static __always_inline int send_device(struct __sk_buff *skb, const struct dest *d)
{
	count_traffic(d->net, DIR_TO_ENDPOINT, skb->len);
	if (d->kind == DEST_HOST_PORT) {
		count_path(skb, d->path);
		return bpf_redirect(d->ifindex, 0);
	}
	skb->mark = 0;
	if (d->kind == DEST_QUEUE) {
		count_path(skb, PATH_REDIRECT);
		return bpf_redirect(d->ifindex, 0);
	}
	count_path(skb, PATH_PEER);
	/* Below 6.15 the receiver would see PACKET_OTHERHOST and drop it: the
	 * frame is not addressed to the host end (kernel commit c4327229948879). */
	if (skb->pkt_type != 0)
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(d->ifindex, 0);
}

static __always_inline int send_next_hop(struct __sk_buff *skb, struct next_hop *hop)
{
	count_path(skb, PATH_NEIGH);
	skb->mark = cfg_mark + hop->up_flags / UP_BELOW; /* to_uplink: already translated */
	return bpf_redirect_neigh(hop->ifindex, &hop->nh, sizeof(hop->nh), 0);
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
	switch (d->kind) {
	case DEST_STACK:
		return VERDICT_NEXT;
	case DEST_NEXT_HOP:
		return send_next_hop(skb, d->hop);
	case DEST_HOST_PORT:
	case DEST_SANDBOX:
	case DEST_QUEUE:
		break;
	}
	return send_device(skb, d);
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
