/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Members of a network by MAC. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* fl_fdb: (network, MAC) -> */
struct fdb_key {
	__u32 net;
	__u8 mac[6];
	__u8 pad[2];
};
_Static_assert(sizeof(struct fdb_key) == 12, "struct fdb_key");

struct fdb_entry {
	__u32 ifindex; /* of the host end; EP_SERVICE: 0 */
	__u16 flags;   /* enum ep_flag of that endpoint: EP_HOSTPORT, …, or EP_SERVICE */
	__u16 node;    /* where the member is; 0: on this host */
};
_Static_assert(sizeof(struct fdb_entry) == 8, "struct fdb_entry");

/* (network, MAC) -> device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fdb_key);
	__type(value, struct fdb_entry);
} fl_fdb SEC(".maps");

/* The same for members on other nodes, in a map of its own: it has another writer and another
 * size, and when it is full local members are not refused (decision 25). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct fdb_key);
	__type(value, struct fdb_entry);
} fl_peer_fdb SEC(".maps");

static __always_inline void fdb_key_of(struct fdb_key *k, __u32 net, const __u8 *mac)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->net = net;
	__builtin_memcpy(k->mac, mac, sizeof(k->mac));
}

/* The member of this host with this MAC, or NULL. */
static __always_inline struct fdb_entry *fdb_local(__u32 net, const __u8 *mac)
{
	struct fdb_key k;

	fdb_key_of(&k, net, mac);
	return bpf_map_lookup_elem(&fl_fdb, &k);
}

/* The member on another node with this MAC, or NULL. */
static __always_inline struct fdb_entry *fdb_remote(__u32 net, const __u8 *mac)
{
	struct fdb_key k;

	fdb_key_of(&k, net, mac);
	return bpf_map_lookup_elem(&fl_peer_fdb, &k);
}
