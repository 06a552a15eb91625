/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Where a frame from another node goes, and the cached result for frames of a pair of members. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "count.h"
#include "decision.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "generation.h"
#include "hostaddr.h"
#include "node.h"
#include "outer.h"
#include "pkt.h"
#include "vlan.h"
#include "vni.h"
#include "vxlan.h"

/* The outer headers are removed, and the packet may belong to a flow: it is for tunnel_inner. Below
 * 0 as VERDICT_NODE. */
#define VERDICT_INNER (-0x101)

/* Likewise, and it is for several members: tunnel_group. */
#define VERDICT_GROUP (-0x102)

/* In skb->cb[0] beside VIA: the node itself sent the packet. */
#define FROM_HOST 0x40000000

/* The network of a frame, if its VNI is one of ours; else NULL. */
static __always_inline struct vni *frame_vni(const struct vxlan_frame *f)
{
	return vni_find(bpf_ntohl(f->vxlan.vni) >> 8);
}

/* May the frame come from there? Then skb->cb[0] is the node as VIA, with FROM_HOST if the node
 * itself sent it, and no member on it. Returns 0, VERDICT_NEXT for a packet in transit, or a refusal. */
static __always_inline int tunnel_source(struct __sk_buff *skb, const struct outer *o,
					 const struct vni *v, const struct vxlan_frame *f)
{
	__u32 id = node_at(&o->src);
	struct node *n = id ? node_find(id) : NULL;
	struct fdb_entry *e;

	/* Another address of this host will do: the nodes do not learn of a change at once. */
	if ((!n || !ip_equal(&n->local, &o->dst)) && !host_addr(&o->dst))
		return VERDICT_NEXT;
	if (!n)
		return -DROP_TUNNEL_SOURCE;
	if (v->flags & TUNNEL_ENCRYPTED &&
	    !(n->flags & NODE_ENCRYPTED && n->ifindex == skb->ifindex))
		return -DROP_CLEAR_TEXT;
	e = fdb_remote(v->net, f->eth.h_source);
	if (!e || e->node != id)
		return -DROP_TUNNEL_MAC;
	skb->cb[0] = VIA(v->net, id) | (e->flags & EP_HOSTPORT ? FROM_HOST : 0);
	return 0;
}

/* Where a frame from another node goes. The gateway is not reached through a tunnel: each node has
 * its own. *inner's destination becomes that of the device. Returns 0 or a refusal. */
static __always_inline int tunnel_dest(struct dest *d, __u32 net, struct ethhdr *inner)
{
	struct fdb_entry *e = fdb_local(net, inner->h_dest);
	struct tunnel *t;

	if (e && e->flags & EP_SERVICE)
		return -DROP_NO_MEMBER; /* its node serves it */
	if (e && !(e->flags & EP_HOSTPORT)) {
		dest_device(d, e->ifindex, net, e->flags);
		return 0;
	}
	t = tunnel_of(net);
	if (!t || !t->hostport_if || !mac_equal(inner->h_dest, t->node_mac))
		return -DROP_NO_MEMBER;
	__builtin_memcpy(inner->h_dest, t->gw_mac, ETH_ALEN);
	dest_host_port(d, t->hostport_if, net, PATH_REDIRECT);
	return 0;
}

/* A cached result of tunnel_source and tunnel_dest, for frames of a member on another node to one on
 * this host. It holds while the generation stays, and for a tick. */
struct arrival {
	struct outer outer; /* but for its ECN */
	__u64 macs;	    /* of the frame inside, as in struct pair */
	__u64 generation;
	__u64 seen; /* as in struct decision */
	__u32 macs2;
	__be32 vni;    /* as in the header */
	__u32 ifindex; /* the device they arrive at */
	__u32 tick;    /* clock_tick() when it was made */
	__u32 net;     /* network index */
	__u32 out;     /* ifindex of the receiver's host end */
	__u32 kind;    /* enum dest_kind */
	__u32 hits;    /* packets that used it, for tests */
};

#define ARRIVALS_SHIFT 9

/* One set per processor, as fl_decision. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << ARRIVALS_SHIFT);
	__type(key, __u32);
	__type(value, struct arrival);
} fl_arrival SEC(".maps");

static __always_inline __u64 frame_macs(const struct vxlan_frame *f)
{
	return *(__u64 *)f->eth.h_dest;
}

static __always_inline __u32 frame_macs2(const struct vxlan_frame *f)
{
	return *(__u32 *)(f->eth.h_source + 2);
}

/* The slot of frames with the MACs and VNI of *f. */
static __always_inline struct arrival *arrival_slot(const struct vxlan_frame *f)
{
	__u64 h = decision_hash(frame_macs(f), frame_macs2(f), f->vxlan.vni);
	__u32 i = h >> (64 - ARRIVALS_SHIFT);

	return bpf_map_lookup_elem(&fl_arrival, &i);
}

static __always_inline bool arrival_is(const struct arrival *a, const struct vxlan_frame *f,
				       const struct outer *o, __u32 ifindex)
{
	return !((a->macs ^ frame_macs(f)) | (a->macs2 ^ frame_macs2(f)) | (a->vni ^ f->vxlan.vni) |
		 (a->ifindex ^ ifindex) | (a->generation ^ a->seen) | (a->tick ^ clock_tick()) |
		 (a->outer.src.d[0] ^ o->src.d[0]) | (a->outer.src.d[1] ^ o->src.d[1]) |
		 (a->outer.dst.d[0] ^ o->dst.d[0]) | (a->outer.dst.d[1] ^ o->dst.d[1]));
}

static __always_inline void arrival_complete(struct arrival *a, const struct vxlan_frame *f,
					     const struct outer *o, __u32 ifindex,
					     const struct dest *d)
{
	a->outer.src = o->src;
	a->outer.dst = o->dst;
	a->macs = frame_macs(f);
	a->macs2 = frame_macs2(f);
	a->vni = f->vxlan.vni;
	a->ifindex = ifindex;
	a->net = d->net;
	a->out = d->ifindex;
	a->kind = d->kind;
	a->tick = clock_tick();
	a->generation = a->seen;
}

/* Finds out where the frame in a datagram from a node goes. Returns 0 if *d is filled in; VERDICT_INNER
 * or VERDICT_GROUP as tunnel_receive, or VERDICT_NEXT or a refusal. */
static __always_inline int tunnel_lookup(struct __sk_buff *skb, struct vxlan_frame *f,
					 const struct outer *o, struct dest *d)
{
	struct vni *v = frame_vni(f);
	int verdict;

	if (!v)
		return VERDICT_NEXT;
	verdict = tunnel_source(skb, o, v, f);
	if (verdict)
		return verdict;
	if (is_vlan(f->eth.h_proto))
		return -DROP_VLAN;
	if (f->eth.h_dest[0] & 1)
		return VERDICT_GROUP;
	if (is_ip(f->eth.h_proto) && v->flags & TUNNEL_SERVICES)
		return VERDICT_INNER;
	return tunnel_dest(d, v->net, &f->eth);
}

/* As tunnel_lookup, by the result for the frames before. */
static __always_inline int tunnel_lookup_cached(struct __sk_buff *skb, struct vxlan_frame *f,
						const struct outer *o, struct dest *d)
{
	struct arrival *a = cfg_cache && !is_vlan(f->eth.h_proto) ? arrival_slot(f) : NULL;
	int verdict;

	if (!a)
		return tunnel_lookup(skb, f, o, d);
	a->seen = generation();
	if (arrival_is(a, f, o, skb->ifindex)) {
		d->kind = a->kind;
		d->ifindex = a->out;
		d->net = a->net;
		a->hits++;
		return 0;
	}
	verdict = tunnel_lookup(skb, f, o, d);
	/* The host port's frames get another MAC. */
	if (!verdict && d->kind != DEST_HOST_PORT)
		arrival_complete(a, f, o, skb->ifindex, d);
	return verdict;
}
