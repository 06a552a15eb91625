/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Members of a network by IP address. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "addr.h"
#include "config.h"

/* fl_neigh: (network, IP) -> */
struct neigh_key {
	union ip addr;
	__u32 net;
	__u32 router; /* 1: the network's router, with addr all zero (router.h) */
};
_Static_assert(sizeof(struct neigh_key) == 24, "struct neigh_key");

struct neigh_entry {
	__u8 mac[6];
	__u16 node;    /* where the member is; 0: on this host */
	__u32 ifindex; /* of the host end; EP_SERVICE: 0 */
	__u32 flags;   /* enum ep_flag of that endpoint, or EP_SERVICE */
};
_Static_assert(sizeof(struct neigh_entry) == 16, "struct neigh_entry");

/* (network, IP) -> MAC and device; three a member: IPv4, IPv6, link-local. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 49152);
	__type(key, struct neigh_key);
	__type(value, struct neigh_entry);
} fl_neigh SEC(".maps");

/* The same for members on other nodes; see fl_peer_fdb. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 393216);
	__type(key, struct neigh_key);
	__type(value, struct neigh_entry);
} fl_peer_neigh SEC(".maps");

/* Finds a member of this host. */
static __always_inline int neigh_local(const union ip *a, __u32 net, struct neigh_entry **n)
{
	struct neigh_key k = { .addr = *a, .net = net };

	*n = bpf_map_lookup_elem(&fl_neigh, &k);
	return *n != NULL;
}

/* The member on another node with this address, or NULL. */
static __always_inline struct neigh_entry *neigh_remote(const union ip *a, __u32 net)
{
	struct neigh_key k = { .addr = *a, .net = net };

	return bpf_map_lookup_elem(&fl_peer_neigh, &k);
}

/* Finds a member wherever it is. */
static __always_inline int neigh_find(const union ip *a, __u32 net, struct neigh_entry **n)
{
	struct neigh_key k = { .addr = *a, .net = net };

	*n = bpf_map_lookup_elem(&fl_neigh, &k);
	if (!*n && cfg_vxlan_port)
		*n = bpf_map_lookup_elem(&fl_peer_neigh, &k);
	return *n != NULL;
}
