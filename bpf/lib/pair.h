/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The same for frames between two members of a network, which have no flow: whatever the source address
 * and the two MACs decide holds for every IP packet of the pair. It depends on the daemon's tables only, so
 * it holds while the generation stays (generation.h). If a member is on another node it also depends on
 * the MTU that was learned of the path, and holds for a tick.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "node.h"
#include "pkt.h"

struct pair {
	union ip saddr;
	__u64 macs; /* the first twelve bytes of the frame */
	__u32 macs2;
	__u32 ifindex; /* the device they arrive at */
	__u64 generation;
	__u64 seen; /* as in struct decision */
	__u32 net;  /* network index */
	__u32 out;  /* ifindex of the receiver's host end; PAIR_TUNNEL: number of its node */
	__u32 kind; /* enum dest_kind, or PAIR_TUNNEL */
	__u32 hits; /* packets that used it, for tests */
	/* Of PAIR_TUNNEL: */
	struct node node;
	__u32 vni;
	__u32 mtu;  /* of IP packets inside of the tunnel, in bytes; 0: not known */
	__u32 tick; /* clock_tick() when it was made */
	__u32 pad;
};

/* The receiver is on another node. */
#define PAIR_TUNNEL 0x100

#define PAIRS 512

/* One set per processor, as fl_decision. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PAIRS);
	__type(key, __u32);
	__type(value, struct pair);
} fl_pair SEC(".maps");

/* Which pair a frame is of. */
struct pair_key {
	__u64 src[2]; /* as in union ip */
	__u64 macs;
	__u32 macs2;
};

/* Fills *k from the packet in data. Returns false if its pair does not decide what becomes of it: the
 * programs reply to neighbour solicitations. */
static __always_inline bool pair_key(struct pair_key *k, void *data, void *end)
{
	struct ipv6hdr *ip6 = data + L3;
	struct iphdr *ip = data + L3;
	__be16 proto;

	if ((void *)(ip + 1) > end)
		return false;
	k->macs = *(__u64 *)data;
	k->macs2 = *(__u32 *)(data + 8);
	proto = *(__be16 *)(data + 2 * ETH_ALEN);
	if (proto == bpf_htons(ETH_P_IP)) {
		k->src[0] = 0;
		k->src[1] = (__u64)ip->saddr << 32 | bpf_htonl(0xffff);
		return true;
	}
	if (proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end ||
	    (ip6->nexthdr != IPPROTO_TCP && ip6->nexthdr != IPPROTO_UDP))
		return false;
	k->src[0] = *(__u64 *)&ip6->saddr;
	k->src[1] = *(__u64 *)&ip6->saddr.in6_u.u6_addr32[2];
	return true;
}

/* The slot of frames with these MACs. Members that send to each other often have MACs that differ in
 * their last bytes. */
static __always_inline struct pair *pair_slot(void *data, __u32 ifindex)
{
	__u32 i = (*(__u16 *)(data + 4) >> 7 ^ *(__u16 *)(data + 4) ^ ifindex) & (PAIRS - 1);

	return bpf_map_lookup_elem(&fl_pair, &i);
}

static __always_inline bool pair_is(const struct pair *s, const struct pair_key *k, __u32 ifindex)
{
	return !((s->saddr.d[0] ^ k->src[0]) | (s->saddr.d[1] ^ k->src[1]) | (s->macs2 ^ k->macs2) |
		 (s->ifindex ^ ifindex) | (s->generation ^ s->seen));
}

/* Begins the record of the pair of the frame in data from device ifindex. Returns NULL if it cannot be
 * recorded. */
static __always_inline struct pair *pair_record(void *data, void *end, __u32 ifindex, __u32 net)
{
	struct pair_key k;
	struct pair *s;

	if (!pair_key(&k, data, end))
		return NULL;
	s = pair_slot(data, ifindex);
	if (!s)
		return NULL;
	s->saddr.d[0] = k.src[0];
	s->saddr.d[1] = k.src[1];
	s->macs = k.macs;
	s->macs2 = k.macs2;
	s->ifindex = ifindex;
	s->net = net;
	s->generation = s->seen;
	return s;
}
