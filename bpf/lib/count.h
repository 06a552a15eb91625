/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Counters. Counting never changes a verdict: a miss is ignored.
 *
 * Each packet that a program accounts to a network, or to the uplinks, increments exactly one
 * counter of fl_paths or fl_drops: received = forwarded + passed + dropped.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Where a packet went: proof that the fast path is taken. */
enum fwd_path {
	PATH_PEER = 0,	   /* bpf_redirect_peer: straight into a sandbox */
	PATH_NEIGH = 1,	   /* bpf_redirect_neigh: straight to an uplink */
	PATH_REDIRECT = 2, /* bpf_redirect: to a host port, or through a host end's queue */
	PATH_STACK = 3,	   /* handed to the host's stack to be routed there */
	PATH_FLOOD = 4,	   /* copies to several members */
	PATH_REPLY = 5,	   /* replied to by the program (ARP, ND) */
	PATH_PASS = 6,	   /* passed by a program at an uplink, to the host's stack or out */
	PATH_HELD = 7,	   /* a fragment held until its first arrives */
	PATH_TUNNEL = 8,   /* encapsulated, to another node */
	PATH_GROUP = 9,	   /* of IGMP or MLD, from another node: noted */
	PATH_MAX,
};

/* Datapath events other than drops. */
enum ct_event {
	EV_CT_CREATED = 0,	  /* unconfirmed flows created */
	EV_CT_CONFIRMED = 1,	  /* flows moved to fl_ct */
	EV_CT_DELETED = 2,	  /* flows removed from fl_ct */
	EV_CT_NOT_CONFIRMED = 3,  /* no room in fl_ct; the flow stays in fl_ct_new */
	EV_SNAT_RETRY = 4,	  /* ports tried beyond the first */
	EV_SOCK_CONNECT = 5,	  /* host sockets redirected to a backend */
	EV_SOCK_BIND_REFUSED = 6, /* binds of a published port refused */
	EV_FLOOD_CUT = 7,	  /* broadcasts that did not reach all members */
	EV_TUNNEL_CUT = 8,	  /* copies of broadcasts that did not leave for a node */
	EV_GROUP_SPARED = 9,	  /* copies of multicast not made for nodes without listeners */
	EV_GROUP_FULL = 10,	  /* groups of a node for which there was no room */
	EV_MAX,
};

#define MAX_NETWORKS 4096

/* Packets are accounted to their network, index 1 and up; those that a program sees at an
 * uplink to this index, arriving as DIR_FROM_ENDPOINT and leaving as DIR_TO_ENDPOINT. */
#define NET_UPLINKS 0

enum direction {
	DIR_FROM_ENDPOINT = 0,
	DIR_TO_ENDPOINT = 1,
	DIR_MAX,
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PATH_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_paths SEC(".maps");

/* Index: network index * DIR_MAX + enum direction. */
#define TRAFFIC_SLOTS (MAX_NETWORKS * DIR_MAX)
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TRAFFIC_SLOTS);
	__type(key, __u32);
	__type(value, struct counter);
} fl_traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EV_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_events SEC(".maps");

static __always_inline void count(void *map, __u32 index, __u64 bytes)
{
	struct counter *c = bpf_map_lookup_elem(map, &index);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

static __always_inline void count_path(struct __sk_buff *skb, enum fwd_path path)
{
	count(&fl_paths, path, skb->len);
}

static __always_inline void count_traffic(__u32 net, enum direction dir, __u64 bytes)
{
	count(&fl_traffic, net * DIR_MAX + dir, bytes);
}

static __always_inline void count_event(enum ct_event ev)
{
	count(&fl_events, ev, 0);
}
