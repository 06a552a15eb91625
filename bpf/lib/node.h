/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Other hosts of an overlay. This host is number 0 wherever a member's node is named. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "clock.h"
#include "count.h"

/* node.flags */
enum node_flag {
	NODE_ENCRYPTED = 1 << 0, /* reached by a device that encrypts */
};

/* fl_node: number of a node -> */
struct node {
	union ip local;	 /* this host's tunnel address, of the family of remote */
	union ip remote; /* the node's tunnel address */
	__u32 ifindex;	 /* of the uplink to it; 0: there is no route */
	__u32 up_flags;	 /* of that uplink, as in struct uplink */
	__u16 mtu;	 /* of IP packets inside of the tunnel, in bytes; 0: not known */
	__u16 flags;	 /* enum node_flag */
	__u32 pad;
};
_Static_assert(sizeof(struct node) == 48, "struct node");

#define NODES 8192

/*
 * Another node, where a table otherwise names a device: in_if and out_if of a flow's entry, and
 * ifindex of a backend. It consists of the network and the number of the node. Number 0 stands for
 * the node of the member that the packet is translated to, so that a flow follows a member that
 * moves. No device has such an index.
 */
#define VIA_NODE 0x80000000
#define VIA_SHIFT 13 /* of the network; NODES is 2^13 */
#define VIA(net, id) (VIA_NODE | (net) << VIA_SHIFT | (id))
#define VIA_NET(via) ((via) >> VIA_SHIFT & (MAX_NETWORKS - 1))
#define VIA_ID(via) ((via) & (NODES - 1))
_Static_assert(NODES == 1 << VIA_SHIFT && (__u64)MAX_NETWORKS * NODES <= VIA_NODE, "VIA");

/* Nodes by number: 1 to 4095, and the same plus 4096 where they are reached by the device that
 * encrypts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, NODES);
	__type(key, __u32);
	__type(value, struct node);
} fl_node SEC(".maps");

/* fl_node_mtu: number of a node -> what an ICMP error about a tunnel's packet said of the path */
struct node_mtu {
	__u32 mtu;     /* of IP packets inside of the tunnel, in bytes */
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NODES);
	__type(key, __u32);
	__type(value, struct node_mtu);
} fl_node_mtu SEC(".maps");

/* Numbers of nodes by the tunnel addresses that they may send from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, NODES);
	__type(key, union ip);
	__type(value, __u32);
} fl_node_addr SEC(".maps");

static __always_inline struct node *node_find(__u32 id)
{
	return bpf_map_lookup_elem(&fl_node, &id);
}

/* The number of the node with tunnel address *a, or 0. */
static __always_inline __u32 node_at(const union ip *a)
{
	__u32 *id = bpf_map_lookup_elem(&fl_node_addr, a);

	return id ? *id : 0;
}

/* Seconds that a learned MTU holds, as in the kernel (net.ipv4.route.mtu_expires). */
#define NODE_MTU_LIFETIME 600

/* The MTU that was learned of the path to a node, or 0. */
static __always_inline __u32 node_mtu_learned(__u32 id)
{
	struct node_mtu *m = bpf_map_lookup_elem(&fl_node_mtu, &id);

	return m && m->mtu && (__s32)(m->expires - now_seconds()) > 0 ? m->mtu : 0;
}

static __always_inline void node_mtu_learn(__u32 id, __u32 mtu)
{
	struct node_mtu *m = bpf_map_lookup_elem(&fl_node_mtu, &id);

	if (!m)
		return;
	m->expires = now_seconds() + NODE_MTU_LIFETIME;
	m->mtu = mtu;
}
