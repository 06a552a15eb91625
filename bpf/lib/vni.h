/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Networks that span nodes. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"

/* vni.flags and tunnel.flags */
enum tunnel_flag {
	TUNNEL_ENCRYPTED = 1 << 0, /* nothing of the network may travel in clear text */
	TUNNEL_SERVICES = 1 << 1,  /* of a VNI: the network has services */
};

/* fl_vni: VNI -> */
struct vni {
	__u32 net;   /* network index, HBO */
	__u32 flags; /* enum tunnel_flag */
};
_Static_assert(sizeof(struct vni) == 8, "struct vni");

/* fl_tunnel: network index -> */
struct tunnel {
	union ip node4; /* of this host itself, as other nodes know it; all zero: none */
	union ip node6;
	__u32 vni;	   /* HBO, 24 bits */
	__u32 hostport_if; /* ifindex of the network's host port, the datapath's end */
	__u16 mtu;	   /* of the network, in bytes; 0: not known */
	__u16 flags;	   /* enum tunnel_flag */
	__u8 node_mac[6];  /* of this host itself, likewise */
	__u8 gw_mac[6];	   /* of the gateway, the same on each node */
};
_Static_assert(sizeof(struct tunnel) == 56, "struct tunnel");

/* fl_tunnel_node: the nodes that get a copy of the broadcasts of a network, from n = 1 on; n = 0:
 * how many they are */
struct tunnel_node_key {
	__u32 net;
	__u32 n;
};
_Static_assert(sizeof(struct tunnel_node_key) == 8, "struct tunnel_node_key");

/* Networks by VNI. A VNI that is not here belongs to the host's stack. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct vni);
} fl_vni SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tunnel);
} fl_tunnel SEC(".maps");

/* At most one entry for each remote member, and one for each network. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct tunnel_node_key);
	__type(value, __u32);
} fl_tunnel_node SEC(".maps");

static __always_inline struct vni *vni_find(__u32 vni)
{
	return bpf_map_lookup_elem(&fl_vni, &vni);
}

static __always_inline struct tunnel *tunnel_of(__u32 net)
{
	return bpf_map_lookup_elem(&fl_tunnel, &net);
}

/* The nth node of network net, or 0; n = 0: how many there are. */
static __always_inline __u32 tunnel_node(__u32 net, __u32 n)
{
	struct tunnel_node_key k = { .net = net, .n = n };
	__u32 *v = bpf_map_lookup_elem(&fl_tunnel_node, &k);

	return v ? *v : 0;
}
