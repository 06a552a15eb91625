/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The ways a packet leaves a program. Each counts its path. */

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
#include "drop.h"
#include "endpoint.h"
#include "fib.h"
#include "nat.h"
#include "pkt.h"
#include "skb.h"
#include "track.h"
#include "tuple.h"
#include "uplink.h"

/* Delivers the packet as it is into the sandbox of endpoint ifindex, which has these flags. The
 * sandbox must not see marks of the host. A flow of the host may end here, too (hostflow.h). */
static __always_inline int to_sandbox(struct __sk_buff *skb, __u32 ifindex, __u32 net, __u32 flags)
{
	count_traffic(net, DIR_TO_ENDPOINT, skb->len);
	skb->mark = 0;
	if (flags & (EP_SHAPED | EP_HOSTPORT)) {
		count_path(skb, PATH_REDIRECT);
		return bpf_redirect(ifindex, 0);
	}
	count_path(skb, PATH_PEER);
	/* Below 6.15 the receiver would see PACKET_OTHERHOST and drop it: the
	 * frame is not addressed to the host end (kernel commit c4327229948879). */
	if (skb->pkt_type != 0)
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(ifindex, 0);
}

/* Sends the packet out of the datapath's end of a host port, into the host's stack. */
static __always_inline int to_host_port(struct __sk_buff *skb, __u32 hostport_if, __u32 net,
					enum fwd_path path)
{
	count_traffic(net, DIR_TO_ENDPOINT, skb->len);
	count_path(skb, path);
	return bpf_redirect(hostport_if, 0);
}

/* Sends what BPF cannot handle to the host's stack, through the network's host port. */
static __always_inline int to_stack(struct __sk_buff *skb, const struct endpoint *ep)
{
	return to_host_port(skb, ep->hostport_if, ep->net, PATH_STACK);
}

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

/* Translates the packet to *to and routes it into the sandbox of *ep, endpoint ifindex. */
static __always_inline int route_to_endpoint(struct __sk_buff *skb, struct pkt *p,
					     const struct tuple *to, const struct endpoint *ep,
					     __u32 ifindex)
{
	int err;

	err = nat_rewrite(skb, p, to);
	if (err)
		return err;
	err = decrement_ttl(skb, p);
	if (err)
		return err;
	err = set_macs(skb, ep->mac, ep->gw_mac);
	if (err)
		return err;
	return to_sandbox(skb, ifindex, ep->net, ep->flags);
}

static __always_inline int route_to_sandbox(struct __sk_buff *skb, struct pkt *p,
					    const struct tuple *to, __u32 ifindex)
{
	struct endpoint *ep = bpf_map_lookup_elem(&fl_endpoint, &ifindex);

	return ep ? route_to_endpoint(skb, p, to, ep, ifindex) : -DROP_ENDPOINT_GONE;
}

/* Sends the packet, translated to *to, to the next hop. */
static __always_inline int to_next_hop(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				       struct next_hop *hop)
{
	int err = nat_rewrite(skb, p, to);

	if (err)
		return err;
	err = decrement_ttl(skb, p);
	if (err)
		return err;
	count_path(skb, PATH_NEIGH);
	skb->mark = cfg_mark + hop->up_flags / UP_BELOW; /* to_uplink: already translated */
	return bpf_redirect_neigh(hop->ifindex, &hop->nh, sizeof(hop->nh), 0);
}

/* Handles a packet of a known flow whose other end is the host's stack or beyond it. */
static __always_inline int known_to_stack(struct __sk_buff *skb, struct pkt *p, struct ct_entry *e,
					  bool confirmed)
{
	struct tuple to = e->xlat;
	int err = ct_hit(p, e, confirmed);

	if (err)
		return err;
	err = nat_rewrite(skb, p, &to);
	return err ? err : VERDICT_NEXT;
}
