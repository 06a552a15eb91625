/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Routing out of the host, by the kernel's own table. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "pkt.h"
#include "subnet.h"
#include "tuple.h"
#include "uplink.h"
#include "xlat_len.h"

#ifndef BPF_FIB_LOOKUP_SKIP_NEIGH
#define BPF_FIB_LOOKUP_SKIP_NEIGH (1U << 2) /* 6.3 */
#endif
#ifndef BPF_FIB_LOOKUP_SRC
#define BPF_FIB_LOOKUP_SRC (1U << 4) /* 6.7, kernel commit dab4e1f06cab */
#endif

struct next_hop {
	union ip src; /* the route's preferred source address */
	struct bpf_redir_neigh nh;
	__u32 ifindex;
	__u32 mtu;	/* in bytes; 0: not known */
	__u32 up_flags; /* of the uplink */
};

/*
 * The result of a route lookup, cached for the packets that follow: the lookup is the most
 * expensive part of a packet, and the result hardly ever changes. It is repeated in each tick, so
 * that a changed route, address or uplink takes effect within a fraction of a second. The key
 * holds all that a routing rule can match (ports, the source).
 */
struct route_key {
	struct tuple t;
	__u32 iif;
	__u32 prefer;
};

struct route_slot {
	struct route_key key;
	__u32 tick; /* clock_tick() when it was looked up */
	__u32 pad;
	struct next_hop hop;
};

#define ROUTE_SLOTS_SHIFT 10
#define ROUTE_SLOTS (1 << ROUTE_SLOTS_SHIFT)

/* One per processor; bottom halves are off from lookup to use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ROUTE_SLOTS);
	__type(key, __u32);
	__type(value, struct route_slot);
} fl_route SEC(".maps");

enum route_result {
	ROUTE_OK,
	ROUTE_STACK,   /* BPF cannot send it: local, multicast, unreachable, other kind of device */
	ROUTE_TOO_BIG, /* next_hop->mtu says how big it may be */
};

/* The cache slot for a packet: any function of its key will do that differs where flows do. */
static __always_inline struct route_slot *route_slot(const struct tuple *t, bool prefer)
{
	__u64 h = (t->saddr.d[1] ^ t->daddr.d[1] ^ ((__u64)t->sport << 32 | t->dport)) + prefer;
	__u32 i;

	h *= 0x9e3779b97f4a7c15ULL;	   /* 2^64 over the golden ratio */
	i = h >> (64 - ROUTE_SLOTS_SHIFT); /* the bits that depend on all of the key */
	return bpf_map_lookup_elem(&fl_route, &i);
}

static __always_inline bool route_key_is(const struct route_key *k, const struct tuple *t,
					 __u32 iif, bool prefer)
{
	return tuple_equal(&k->t, t) && k->iif == iif && k->prefer == prefer;
}

/* Looks up the kernel's route for a packet of len bytes with key k. */
static __noinline enum route_result route_ask(struct __sk_buff *skb, const struct route_key *k,
					      __u32 len, bool is4, struct next_hop *out)
{
	struct bpf_fib_lookup fib = {};
	struct uplink *up;
	__u32 flags = 0;
	long err;

	fib.ifindex = k->iif;
	fib.tot_len = len > 0xffff ? 0xffff : len;
	fib.l4_protocol = k->t.proto;
	fib.sport = k->t.sport;
	fib.dport = k->t.dport;
	if (is4) {
		fib.family = 2; /* AF_INET */
		fib.ipv4_src = k->t.saddr.w[3];
		fib.ipv4_dst = k->t.daddr.w[3];
	} else {
		fib.family = 10; /* AF_INET6 */
		__builtin_memcpy(fib.ipv6_src, &k->t.saddr, 16);
		__builtin_memcpy(fib.ipv6_dst, &k->t.daddr, 16);
	}
	if (cfg_fib_src)
		flags = BPF_FIB_LOOKUP_SKIP_NEIGH | (k->prefer ? BPF_FIB_LOOKUP_SRC : 0);
	err = bpf_fib_lookup(skb, &fib, sizeof(fib), flags);
	/* Without a neighbour entry (below 6.3) this is the length passed in. */
	out->mtu = err == BPF_FIB_LKUP_RET_NO_NEIGH ? 0 : fib.mtu_result;
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return ROUTE_TOO_BIG;
	if (err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH)
		return ROUTE_STACK;
	out->ifindex = fib.ifindex;
	up = uplink_find(out->ifindex);
	if (!up)
		return ROUTE_STACK;
	out->up_flags = up->flags;
	out->src = is4 ? up->ip4 : up->ip6;
	if (cfg_fib_src && k->prefer) {
		if (is4)
			ip_set4(&out->src, fib.ipv4_src);
		else
			ip_set6(&out->src, fib.ipv6_src);
		/* Where the device has no address, the kernel chooses any address of the host:
		 * a gateway's is no better than a sandbox's. */
		if (!ip_equal(&out->src, is4 ? &up->ip4 : &up->ip6) && subnet_of(&out->src))
			out->src = is4 ? up->ip4 : up->ip6;
	}
	/* The next hop replaced the destination, perhaps in the other family (RFC 8950). */
	out->nh.nh_family = fib.family;
	if (fib.family == 2)
		out->nh.ipv4_nh = fib.ipv4_dst;
	else
		__builtin_memcpy(out->nh.ipv6_nh, fib.ipv6_dst, 16);
	return ROUTE_OK;
}

/* route_find looks up the route of packet p that arrived at device iif, as if it belonged to
 * flow *by. prefer: find the preferred source address of the route, for which IPv6 walks every
 * address of the host; else hop->src may be the uplink's first. For IPv4 it is always found. */
static __always_inline enum route_result route_find(struct __sk_buff *skb, const struct pkt *p,
						    const struct tuple *by, __u32 iif, bool prefer,
						    struct next_hop **hop)
{
	__u32 tick = clock_tick(), len = xlat_len(p, &by->daddr);
	bool is4 = ip_is4(&by->daddr);
	enum route_result got;
	struct route_slot *s;

	prefer |= is4; /* it costs nothing there */
	s = route_slot(by, prefer);
	if (!s)
		return ROUTE_STACK;
	*hop = &s->hop;
	if (s->tick == tick && route_key_is(&s->key, by, iif, prefer))
		return len > s->hop.mtu ? ROUTE_TOO_BIG : ROUTE_OK;
	s->key.t = *by;
	s->key.iif = iif;
	s->key.prefer = prefer;
	got = route_ask(skb, &s->key, len, is4, &s->hop);
	s->tick = got == ROUTE_OK && s->hop.mtu ? tick : tick - 1;
	return got;
}
