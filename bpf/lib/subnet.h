/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The networks' subnets. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"

/* fl_subnet: longest prefix match over the networks' subnets -> network index and flags (enum subnet_flag) */
struct subnet_key {
	__u32 prefixlen; /* 0..128; an IPv4 /n is 96 + n */
	union ip addr;
} __attribute__((packed, aligned(4))); /* a hole before addr would be part of the prefix */
_Static_assert(sizeof(struct subnet_key) == 20, "struct subnet_key");

/* What the gateway mode of a network says about a family. */
enum subnet_flag {
	SUBNET_OPEN = 1 << 16,	    /* members are reached at their own addresses, */
	SUBNET_PUBLISHED = 1 << 17, /* or only at ports that are published there */
	SUBNET_OWN = 1 << 18,	    /* what members send leaves the host with their own addresses */
};
#define SUBNET_NET 0xffff

/* Are members reached from outside of their network? */
#define SUBNET_REACHED (SUBNET_OPEN | SUBNET_PUBLISHED)

/* Subnets of all networks. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct subnet_key);
	__type(value, __u32);
} fl_subnet SEC(".maps");

/* Returns the network whose subnet contains the address, with its flags, or 0. */
static __always_inline __u32 subnet_find(const union ip *a)
{
	struct subnet_key k = { .prefixlen = 128, .addr = *a };
	__u32 *subnet = bpf_map_lookup_elem(&fl_subnet, &k);

	return subnet ? *subnet : 0;
}

/* Returns the network alone. */
static __always_inline __u32 subnet_of(const union ip *a)
{
	return subnet_find(a) & SUBNET_NET;
}
