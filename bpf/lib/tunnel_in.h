/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Frames that arrive from other nodes: decapsulated, and delivered to members on this host. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "count.h"
#include "ct.h"
#include "decision.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "fib.h"
#include "flood.h"
#include "flow.h"
#include "flow_create.h"
#include "frag.h"
#include "generation.h"
#include "group.h"
#include "hostaddr.h"
#include "icmp.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "node.h"
#include "pkt.h"
#include "send.h"
#include "skb.h"
#include "subnet.h"
#include "track.h"
#include "tuple.h"
#include "vlan.h"
#include "vni.h"
#include "vxlan.h"
#include "xlat_len.h"

#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7) /* 6.3 */
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

/* The outer headers are removed, and the packet may belong to a flow: it is for tunnel_inner. Below
 * 0 as VERDICT_NODE. */
#define VERDICT_INNER (-0x101)

/* Likewise, and it is for several members: tunnel_group. */
#define VERDICT_GROUP (-0x102)

/* In skb->cb[0] beside VIA: the node itself sent the packet. */
#define FROM_HOST 0x40000000

/* What the outer IP header says. */
struct outer {
	union ip src;
	union ip dst;
	__u8 ecn;
};

/* Where layer 4 of a datagram to the tunnels' port begins, if its IP header is a plain one and it
 * is whole; else 0. */
static __always_inline __u32 tunnel_l4(struct __sk_buff *skb)
{
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	struct iphdr *ip;
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		l4 = L3 + sizeof(*ip);
		if (!have(skb, L3 + sizeof(*ip) + sizeof(*udp)))
			return 0;
		ip = DATA(skb, L3);
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip->ihl != 5 ||
		    ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_MF | IP_OFFSET))
			return 0;
	} else {
		l4 = L3 + sizeof(*ip6);
		if (!have(skb, L3 + sizeof(*ip6) + sizeof(*udp)))
			return 0;
		ip6 = DATA(skb, L3);
		udp = (void *)(ip6 + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip6->nexthdr != IPPROTO_UDP)
			return 0;
	}
	return udp->dest == bpf_htons(cfg_vxlan_port) ? l4 : 0;
}

static __always_inline bool outer_read(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!have(skb, L3 + sizeof(*ip)))
			return false;
		ip = DATA(skb, L3);
		if ((void *)(ip + 1) > DATA_END(skb))
			return false;
		ip_set4(&o->src, ip->saddr);
		ip_set4(&o->dst, ip->daddr);
		o->ecn = ip->tos & 3;
		return true;
	}
	if (!have(skb, L3 + sizeof(*ip6)))
		return false;
	ip6 = DATA(skb, L3);
	if ((void *)(ip6 + 1) > DATA_END(skb))
		return false;
	ip_set6(&o->src, &ip6->saddr);
	ip_set6(&o->dst, &ip6->daddr);
	o->ecn = ecn_of(*(__be16 *)ip6, false);
	return true;
}

/* Reads the headers from layer 4 on, which is at l4. */
static __always_inline bool frame_read(struct __sk_buff *skb, __u32 l4, struct vxlan_frame *f)
{
	return !bpf_skb_load_bytes(skb, l4, f, VXLAN_FRAME_LEN) &&
	       f->vxlan.flags == bpf_htonl(VXLAN_VALID);
}

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

/* The ECN of the frame inside, which arrived as *ecn, after decapsulation: RFC 6040 section 4.2, as
 * the kernel (INET_ECN_decapsulate). Returns 0 or a refusal. */
static __always_inline int ecn_combine(__u8 outer, __u8 *ecn)
{
	if (outer == ECN_CE && *ecn == ECN_NONE)
		return -DROP_TUNNEL_ECN;
	if (*ecn != ECN_NONE && outer == ECN_CE)
		*ecn = ECN_CE;
	else if (*ecn == ECN_ECT0 && outer == ECN_ECT1)
		*ecn = ECN_ECT1;
	return 0;
}

/* Pads the frame at the offset to the size that kernels without the flags of tunnel_strip require
 * after its header: that of the outer IP header. Ethernet pads short frames, too. */
static __always_inline int tunnel_pad(struct __sk_buff *skb, __u32 frame)
{
	__u32 least = frame + ETH_HLEN + sizeof(struct ipv6hdr);

	if (skb->protocol != bpf_htons(ETH_P_IPV6) || skb->len >= least)
		return 0;
	return bpf_skb_change_tail(skb, least, 0);
}

/* Removes everything before the frame of the datagram at l4. */
static __always_inline int tunnel_strip(struct __sk_buff *skb, __u32 l4, const struct ethhdr *inner)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	struct ethhdr *eth;

	/* The flag sets skb->protocol, and how short the frame may be: it may be an ARP packet. */
	if (cfg_decap_l3)
		flags |= inner->h_proto == bpf_htons(ETH_P_IPV6) ? BPF_F_ADJ_ROOM_DECAP_L3_IPV6 :
								   BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	else if (tunnel_pad(skb, l4 + 16))
		return -DROP_TUNNEL_FAILED;
	if (bpf_skb_adjust_room(skb, -(__s32)(l4 + 16), BPF_ADJ_ROOM_MAC, flags))
		return -DROP_TUNNEL_FAILED;
	/* What the device verified was the outer checksum, or one more. */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	if (!have(skb, sizeof(*eth)))
		return -DROP_TUNNEL_FAILED;
	eth = DATA(skb, 0);
	if ((void *)(eth + 1) > DATA_END(skb))
		return -DROP_TUNNEL_FAILED;
	__builtin_memcpy(eth, inner, sizeof(*eth));
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

/* Handles a datagram to the tunnels' port, whose UDP header is at l4. VERDICT_NEXT: it is not for
 * an overlay of this host. VERDICT_INNER, VERDICT_GROUP: the rest is done by tunnel_inner or
 * tunnel_group. Global, so that it is verified once. */
__noinline int tunnel_receive(struct __sk_buff *skb, __u32 l4)
{
	struct vxlan_frame f = {};
	struct outer o = {};
	struct dest d = {};
	__be16 first = 0;
	int verdict, where;
	bool is4, ip;
	__u8 ecn;

	if (!frame_read(skb, l4, &f) || !outer_read(skb, &o))
		return VERDICT_NEXT;
	where = tunnel_lookup_cached(skb, &f, &o, &d);
	if (where && where != VERDICT_INNER && where != VERDICT_GROUP)
		return where;
	ip = is_ip(f.eth.h_proto);
	is4 = f.eth.h_proto == bpf_htons(ETH_P_IP);
	if (ip && bpf_skb_load_bytes(skb, l4 + VXLAN_FRAME_LEN, &first, sizeof(first)))
		return -DROP_MALFORMED;
	ecn = ecn_of(first, is4);
	verdict = ip ? ecn_combine(o.ecn, &ecn) : 0;
	if (!verdict)
		verdict = tunnel_strip(skb, l4, &f.eth);
	if (!verdict && ip && ecn != ecn_of(first, is4))
		verdict = set_ecn(skb, is4, ecn);
	if (verdict || where)
		return verdict ? verdict : where;
	/* skb->protocol may still be that of the outer packet; a device sets it. */
	if (d.kind == DEST_SANDBOX && skb->protocol != f.eth.h_proto)
		d.kind = DEST_QUEUE;
	return send_device(skb, &d);
}

/*
 * In networks with services, packets from other nodes are looked up. A member's may be the answer of
 * a backend to a client that came to the service here: it is translated, and leaves for the client,
 * which may be outside. A node's own may be those of a client outside that came to a published port
 * there: the answers leave through that node.
 *
 * Each step is a function that the program calls itself, because nested they would need too much
 * stack. Between two of them, struct flow has what is known.
 */
enum inner_step {
	INNER_BRIDGE = VERDICT_NEXT, /* as it is, to the member that its MAC names */
	INNER_BEGIN = 0x200,	     /* from outside: its answers are to leave through the node */
	INNER_ERROR,		     /* an ICMP error */
	INNER_FLOW, /* of a flow: f->onward is what it becomes, and f->via its device */
};

/* Parses the packet behind the outer headers that were removed. Fragments that come before their
 * first are not held: the device would receive them without their outer headers. */
static __always_inline int inner_parse(struct __sk_buff *skb, struct pkt *p)
{
	__be16 proto;

	if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &proto, sizeof(proto)))
		return -DROP_TUNNEL_FAILED;
	return parse(skb, p, proto);
}

/* Not inlined, to save stack. */
static __noinline void inner_remember(const struct pkt *p)
{
	frag_remember(p);
}

/* inner_lookup finds the packet's flow. Returns an inner_step or a refusal. */
__noinline int inner_lookup(struct __sk_buff *skb)
{
	__u32 from = skb->cb[0], net = VIA_NET(from);
	struct flow *f = flow_scratch();
	struct ct_entry *e;
	bool confirmed;
	struct pkt p;
	int err;

	if (inner_parse(skb, &p) || !f || p.flags & PKT_ICMP_LOCAL)
		return INNER_BRIDGE;
	inner_remember(&p);
	if (p.flags & PKT_ICMP_ERROR)
		return INNER_ERROR;
	e = ct_find(&p.t, &confirmed);
	if (e && e->in_if == VIA(net, 0)) {
		f->onward = e->xlat;
		f->via = e->out_if;
		err = ct_hit(&p, e, confirmed);
		return err ? err : INNER_FLOW;
	}
	if (!(from & FROM_HOST))
		return INNER_BRIDGE;
	if (e && e->in_if == (from & ~FROM_HOST)) {
		f->onward = e->xlat;
		f->via = e->out_if;
		err = ct_hit(&p, e, confirmed);
		if (err)
			return err;
		return tuple_equal(&f->onward, &p.t) ? INNER_BRIDGE : INNER_FLOW;
	}
	return subnet_of(&p.t.saddr) == net ? INNER_BRIDGE : INNER_BEGIN;
}

/* inner_begin makes the flow of a packet from outside that came to another node. If the client came
 * to the backend by this node with the same port, the flow gets another one. If it came by a
 * different node, the latest one counts. */
__noinline int inner_begin(struct __sk_buff *skb)
{
	__u32 via = skb->cb[0] & ~FROM_HOST;
	struct fdb_entry *member;
	struct ct_entry *e;
	bool confirmed;
	__u8 dmac[ETH_ALEN];
	struct flow *f;
	struct pkt p;
	int err;

	if (inner_parse(skb, &p) || bpf_skb_load_bytes(skb, 0, dmac, sizeof(dmac)))
		return INNER_BRIDGE;
	member = fdb_local(VIA_NET(via), dmac);
	if (!member || member->flags & (EP_HOSTPORT | EP_SERVICE))
		return INNER_BRIDGE;
	e = ct_find(&p.t, &confirmed);
	if (e)
		flow_forget(&p.t, &e->xlat);
	f = flow_prepare(&p, VIA_NET(via), via, member->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_create(skb, &p);
	if (err)
		return err;
	f->onward = f->e.xlat;
	f->via = f->e.out_if;
	return tuple_equal(&f->onward, &p.t) ? INNER_BRIDGE : INNER_FLOW;
}

/* inner_error translates the packet that an ICMP error embeds, if it is of a flow of this host. */
__noinline int inner_error(struct __sk_buff *skb)
{
	struct icmp_work *w = icmp_scratch();
	struct flow *f = flow_scratch();
	struct ct_entry *e;
	struct pkt p;

	if (!w || !f || inner_parse(skb, &p))
		return INNER_BRIDGE;
	/* Its answers come from the member, and its packets from the node that it came to. */
	if (icmp_related(skb, &p, VIA(VIA_NET(skb->cb[0]), 0), skb->cb[0] & ~FROM_HOST, w, &e) ||
	    !e)
		return INNER_BRIDGE;
	f->onward = w->to;
	f->via = e->out_if;
	return INNER_FLOW;
}

/* Leaves a packet to the stack, whose errors reach the sender by the host port. The program cannot make
 * one: the kernel shortens no packet that arrived in a tunnel. Nor can it send a packet to a next hop by
 * itself if skb->protocol is that of the outer packet: the host port's device sets it. */
static __always_inline int inner_to_stack(struct __sk_buff *skb, const struct endpoint *hp,
					  struct dest *d)
{
	if (!hp || bpf_skb_store_bytes(skb, 0, hp->gw_mac, ETH_ALEN, 0))
		return -DROP_ENDPOINT_GONE;
	return dest_host(d, hp, PATH_STACK); /* to_uplink translates it then */
}

/* Routes the answer of a backend to a client outside. */
static __always_inline int inner_outside(struct __sk_buff *skb, struct pkt *p, struct flow *f,
					 const struct endpoint *hp, struct dest *d)
{
	struct next_hop *hop;

	if (!hp)
		return -DROP_ENDPOINT_GONE;
	switch (route_find(skb, p, &f->onward, hp->gateway_if, false, &hop)) {
	case ROUTE_OK:
		return dest_next_hop(d, hop, &f->onward);
	case ROUTE_TOO_BIG:
		if (xlat_needed(p, &f->onward.daddr))
			return -DROP_TOO_BIG;
		break;
	case ROUTE_STACK:
		if (xlat_needed(p, &f->onward.daddr))
			return -DROP_NO_ROUTE;
		break;
	}
	return inner_to_stack(skb, hp, d);
}

/* inner_flow sends a packet of a flow to the client. */
__noinline int inner_flow(struct __sk_buff *skb)
{
	struct flow *f = flow_scratch();
	struct tunnel *t = tunnel_of(VIA_NET(skb->cb[0]));
	struct endpoint *hp = t ? endpoint_find(t->hostport_if) : NULL;
	struct dest d = {};
	struct pkt p;
	int err;

	if (!f)
		return -DROP_NAT_FAILED;
	err = inner_parse(skb, &p);
	if (err)
		return err;
	if (p.ttl <= 1)
		err = p.flags & PKT_ICMP_ERROR ? -DROP_TTL : inner_to_stack(skb, hp, &d);
	else if (f->via)
		err = dest_endpoint(&d, f->via, &f->onward);
	else
		err = inner_outside(skb, &p, f, hp, &d);
	if (err)
		return err;
	/* skb->protocol may still be that of the outer packet; a device sets it. */
	if ((skb->protocol == bpf_htons(ETH_P_IP)) != !!(p.flags & PKT_IP4)) {
		if (d.kind == DEST_NEXT_HOP) {
			if (xlat_needed(&p, &f->onward.daddr))
				return -DROP_TUNNEL_FAILED;
			d.to = NULL;
			inner_to_stack(skb, hp, &d);
		}
		if (d.kind == DEST_SANDBOX)
			d.kind = DEST_QUEUE;
	}
	return deliver(skb, &p, &d);
}

/* inner_bridge sends a frame to the member that its MAC names. */
__noinline int inner_bridge(struct __sk_buff *skb)
{
	struct dest d = {};
	struct ethhdr eth;
	int err;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return -DROP_TUNNEL_FAILED;
	err = tunnel_dest(&d, VIA_NET(skb->cb[0]), &eth);
	if (err)
		return err;
	if (d.kind == DEST_HOST_PORT && bpf_skb_store_bytes(skb, 0, eth.h_dest, ETH_ALEN, 0))
		return -DROP_TUNNEL_FAILED;
	if (d.kind == DEST_SANDBOX && skb->protocol != eth.h_proto)
		d.kind = DEST_QUEUE;
	return deliver(skb, NULL, &d);
}

/* Handles a packet whose outer headers were removed, in a network with services. */
static __always_inline int tunnel_inner(struct __sk_buff *skb)
{
	int step = inner_lookup(skb);

	if (step == INNER_ERROR)
		step = inner_error(skb);
	else if (step == INNER_BEGIN)
		step = inner_begin(skb);
	if (step == INNER_FLOW)
		return inner_flow(skb);
	return step == INNER_BRIDGE ? inner_bridge(skb) : step;
}

/* Handles a packet that arrives by the device that encrypts, which has no Ethernet headers. Nodes
 * reach nothing but tunnels by it: the host's firewall does not expect them there. */
static __always_inline int do_from_tunnel(struct __sk_buff *skb)
{
	__u32 l4;
	int verdict;

	if (!is_ip(skb->protocol) || bpf_skb_change_head(skb, ETH_HLEN, 0))
		return -DROP_NOT_TUNNEL;
	l4 = tunnel_l4(skb);
	verdict = l4 ? tunnel_receive(skb, l4) : VERDICT_NEXT;
	return verdict == VERDICT_NEXT ? -DROP_NOT_TUNNEL : verdict;
}

/* Handles a frame to several members, whose outer headers were removed. */
static __always_inline int tunnel_group(struct __sk_buff *skb)
{
	__u32 from = skb->cb[0];
	int kind = group_note(skb, from & ~FROM_HOST, from & FROM_HOST);

	if (kind == GROUP_REPORT || kind == GROUP_KNOWN ||
	    (kind == GROUP_QUERY && from & FROM_HOST)) {
		count_path(skb, PATH_GROUP);
		return TC_ACT_SHOT; /* not a drop: each node queries its own members */
	}
	return flood_arrived(skb, VIA_NET(from));
}

/* Handles a datagram to the tunnels' port whose IP header is not plain. VERDICT_NEXT: it is
 * something else. Only the stack could reassemble
 * fragments, for a device that knows the VNI: the first is refused if it is one of ours. */
static __always_inline int tunnel_odd(struct __sk_buff *skb, const struct pkt *p)
{
	struct vxlan_frame f = {};

	if (!cfg_vxlan_port || p->t.proto != IPPROTO_UDP || p->t.dport != bpf_htons(cfg_vxlan_port))
		return VERDICT_NEXT;
	if (!pkt_is_fragment(p))
		return tunnel_receive(skb, p->l4);
	if (p->flags & PKT_FRAG_FIRST && frame_read(skb, p->l4, &f) && frame_vni(&f) &&
	    host_addr(&p->t.daddr))
		return -DROP_TUNNEL_FRAGMENT;
	return VERDICT_NEXT;
}

/* The least MTU of a path (RFC 791 section 3.1 allows less, which is not plausible; RFC 8200). */
#define PATH_MTU_LEAST4 576
#define PATH_MTU_LEAST6 1280

/* Learns the MTU of the path to a node from ICMP error p, which embeds packet *in. Nothing else would:
 * the host has no socket that sent the packet. */
__noinline int tunnel_learn(struct __sk_buff *skb, const struct pkt *p, const struct pkt *in)
{
	struct {
		__u8 type;
		__u8 code;
		__be16 check;
		__be32 mtu;
	} h = {};
	__u32 id, mtu, room, least;
	union ip remote; /* kernels before 6.2 accept no key in memory of the caller */
	struct node *n;

	if (!p || !in || bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
		return 0;
	mtu = bpf_ntohl(h.mtu);
	if (p->flags & PKT_IP4) {
		if (h.type != ICMP_DEST_UNREACH || h.code != ICMP_FRAG_NEEDED)
			return 0;
		mtu &= 0xffff; /* RFC 1191 section 4 */
		least = PATH_MTU_LEAST4;
		room = VXLAN_ROOM(sizeof(struct iphdr));
	} else {
		if (h.type != ICMPV6_PKT_TOOBIG)
			return 0;
		least = PATH_MTU_LEAST6;
		room = VXLAN_ROOM(sizeof(struct ipv6hdr));
	}
	if (in->t.proto != IPPROTO_UDP || in->t.dport != bpf_htons(cfg_vxlan_port) ||
	    bpf_ntohs(in->t.sport) < VXLAN_SPORT_MIN || mtu < least || mtu >= in->len)
		return 0;
	remote = in->t.daddr;
	id = node_at(&remote);
	n = node_find(id);
	/* No router sees what goes by the device that encrypts. */
	if (n && !(n->flags & NODE_ENCRYPTED) && ip_equal(&n->local, &in->t.saddr) &&
	    ip_equal(&n->remote, &remote))
		node_mtu_learn(id, mtu - room);
	return 0;
}
