/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Broadcast and multicast: a copy to each other member of the network. */

#include "deliver.h"

struct flood {
	struct __sk_buff *skb;
	__u32 net;
	__u32 from;	 /* ifindex that gets no copy */
	__u32 only_host; /* the members must not hear each other (icc=false) */
	__u32 members;
	__u32 copies;
};

/* Members that get a copy of one packet, at most: bounds the time of one run. */
#define FLOOD_MAX 4096

static long flood_one(void *map, __u32 *ifindex, struct endpoint *ep, struct flood *f)
{
	(void)map;
	if (ep->net != f->net || *ifindex == f->from)
		return 0;
	if (f->only_host && !(ep->flags & EP_HOSTPORT))
		return 0;
	if (f->members++ >= FLOOD_MAX)
		return 1;
	if (!bpf_clone_redirect(f->skb, *ifindex, 0))
		f->copies++;
	return 0;
}

static __always_inline int flood(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct flood f = {
		.skb = skb,
		.net = ep->net,
		.from = skb->ifindex,
		.only_host = !(ep->flags & (EP_ICC | EP_HOSTPORT)),
	};

	skb->mark = 0;
	bpf_for_each_map_elem(&fl_endpoint, flood_one, &f, 0);
	/* With nobody else in the network it has reached everybody. */
	if (f.members && !f.copies)
		return -DROP_FLOOD;
	count_path(skb, PATH_FLOOD);
	/* One count a packet, however many hear it. */
	count_traffic(f.net, DIR_TO_ENDPOINT, skb->len);
	return TC_ACT_SHOT; /* the copies are on their way; not a drop, so not counted as one */
}
