/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Broadcast and multicast: a copy to each other member of the network.
 *
 * All copies wait in the backlog of this processor, which has room for net.core.netdev_max_backlog
 * of them (1 000). So one run makes only a few copies and sends the frame to its own device once
 * more, behind these copies. The mark then says how many members have received theirs. When a
 * member is added or removed in between, another may miss the frame or receive it twice.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "config.h"
#include "count.h"
#include "drop.h"
#include "endpoint.h"
#include "group.h"
#include "node.h"
#include "tunnel.h"
#include "vni.h"

/* skb->mark of a frame that was sent to its own device again: this in the upper half, the
 * number of members that have their copy in the lower. A sandbox cannot set it, because marks
 * are cleared between namespaces. */
#define FLOOD_MARK 0xf1a20000
#define FLOOD_MAX 0xff00

/* In skb->cb[0]: enum group_kind. */
struct flood {
	struct __sk_buff *skb;
	__u32 net;
	__u32 from; /* ifindex that gets no copy */
	__u32 only; /* enum flood_to */
	__u32 done; /* members that have a copy from earlier runs */
	__u32 base; /* members counts from here */
	__u32 members;
	__u32 copied;
	__u32 nodes; /* to copy to in this run */
	__u32 node;  /* the first of them */
};

enum flood_to {
	FLOOD_ALL,
	FLOOD_HOST,    /* the members must not reach each other (icc=false) */
	FLOOD_MEMBERS, /* the host port gets no copy */
};

static __always_inline __u32 flood_done(const struct __sk_buff *skb)
{
	return (skb->mark & 0xffff0000) == FLOOD_MARK ? skb->mark & 0xffff : 0;
}

static long flood_one(void *map, __u32 *ifindex, struct endpoint *ep, struct flood *f)
{
	__u32 before;

	(void)map;
	if (ep->net != f->net || *ifindex == f->from)
		return 0;
	if (f->only && (f->only == FLOOD_HOST) != !!(ep->flags & EP_HOSTPORT))
		return 0;
	before = f->members++ - f->base;
	if (before < f->done)
		return 0;
	if (before >= f->done + cfg_flood_slice)
		return 1;
	if (!bpf_clone_redirect(f->skb, *ifindex, 0))
		f->copied = 1;
	return 0;
}

/* Sends the frame to its own device once more for one node, which encapsulates it there. */
static long flood_node(__u32 i, struct flood *f)
{
	union ip group;

	if (i >= f->nodes)
		return 1;
	group_load(f->skb, &group);
	if (f->skb->cb[0] == GROUP_DATA &&
	    !group_listens(f->net, tunnel_node(f->net, f->node + i + 1), &group)) {
		count_event(EV_GROUP_SPARED);
		f->copied = 1;
		return 0;
	}
	f->skb->mark = COPY_MARK | ((f->node + i + 1) & ~MARK_KIND);
	if (bpf_clone_redirect(f->skb, f->skb->ifindex, BPF_F_INGRESS))
		count_event(EV_TUNNEL_CUT);
	else
		f->copied = 1;
	return 0;
}

/* Copies the frame to the nodes of its network that are due after all of the members. Returns how
 * many nodes there are. Where members may not reach each other, none gets a copy; what the host
 * sends stays on it, except for its queries. */
static __always_inline __u32 flood_nodes(struct flood *f, const struct endpoint *ep, __u32 members)
{
	__u32 end = f->done + cfg_flood_slice, all;

	if (!cfg_vxlan_port || !(ep->flags & EP_ICC) || f->skb->cb[0] == GROUP_KNOWN)
		return 0;
	if (ep->flags & EP_HOSTPORT && f->skb->cb[0] != GROUP_QUERY)
		return 0;
	all = tunnel_node(ep->net, 0);
	if (all > FLOOD_MAX)
		all = FLOOD_MAX;
	if (members >= end)
		return all;
	f->node = members > f->done ? 0 : f->done - members;
	f->nodes = end - members - f->node;
	if (f->node < all) {
		if (f->nodes > all - f->node)
			f->nodes = all - f->node;
		bpf_loop(f->nodes, flood_node, f, 0);
		f->skb->mark = 0;
	}
	return all;
}

/* Finds out what the frame is to nodes. Reports are for routers, of which the host may be one: hosts
 * that hear those of others do not send their own (RFC 4541 section 2.1.1). */
static __always_inline void flood_kind(struct flood *f, const struct endpoint *ep)
{
	int kind = group_note(f->skb, VIA(ep->net, 0), ep->flags & EP_HOSTPORT);

	f->skb->cb[0] = kind;
	if (kind == GROUP_REPORT || kind == GROUP_KNOWN)
		f->only = FLOOD_HOST;
}

/* Sends the frame to its own device once more, for the members after the first done. */
static __always_inline bool flood_again(struct __sk_buff *skb, __u32 done)
{
	if (done > FLOOD_MAX)
		return false;
	skb->mark = FLOOD_MARK | done;
	return !bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
}

static __always_inline int flood(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct flood f = {
		.skb = skb,
		.net = ep->net,
		.from = skb->ifindex,
		.only = ep->flags & (EP_ICC | EP_HOSTPORT) ? FLOOD_ALL : FLOOD_HOST,
		.done = flood_done(skb),
		/* Any number unknown to the verifier: from 0 it would follow each value of the
		 * count. */
		.base = skb->hash,
	};
	__u32 members;

	f.members = f.base;
	skb->mark = 0;
	if (cfg_vxlan_port)
		flood_kind(&f, ep);
	bpf_for_each_map_elem(&fl_endpoint, flood_one, &f, 0);
	members = f.members - f.base;
	members += flood_nodes(&f, ep, members);
	/* Without other members it has reached all of them. */
	if (!f.done && members && !f.copied)
		return -DROP_FLOOD;
	/* One count a packet, however many members receive it. */
	if (!f.done) {
		count_path(skb, PATH_FLOOD);
		count_traffic(f.net, DIR_TO_ENDPOINT, skb->len);
	}
	f.done += cfg_flood_slice;
	if (members > f.done && !flood_again(skb, f.done))
		count_event(EV_FLOOD_CUT);
	return TC_ACT_SHOT; /* the copies are on their way; not a drop, so not counted as one */
}

/* Copies a frame of network net that arrived through a tunnel to the members on this host, as many
 * as one run can: other nodes get theirs from the sender. The host port gets none, because the
 * gateway is not reached through a tunnel. */
static __always_inline int flood_arrived(struct __sk_buff *skb, __u32 net)
{
	struct flood f = { .skb = skb, .net = net, .base = skb->hash, .only = FLOOD_MEMBERS };
	__u32 members;

	f.members = f.base;
	bpf_for_each_map_elem(&fl_endpoint, flood_one, &f, 0);
	members = f.members - f.base;
	if (!f.copied)
		return -DROP_FLOOD;
	count_path(skb, PATH_FLOOD);
	count_traffic(net, DIR_TO_ENDPOINT, skb->len);
	if (members > cfg_flood_slice)
		count_event(EV_FLOOD_CUT);
	return TC_ACT_SHOT; /* the copies are on their way */
}
