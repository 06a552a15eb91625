/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Counters. Counting never changes a verdict: a miss is ignored.
 *
 * Verdicts: within the programs a function returns a TC_ACT_ code, or -DROP_X for a packet that is
 * refused. VERDICT_NEXT stands for TC_ACT_UNSPEC ("let the next program or the stack see it"),
 * which is itself negative. finish() converts either to the kernel's verdict, in one place, and
 * counts the drop.
 *
 * Each packet that a program accounts to a network, or to the uplinks, increments exactly one
 * counter of fl_paths or fl_drops: received = forwarded + passed + dropped.
 */

#include <linux/pkt_cls.h>
#include "maps.h"

#define VERDICT_NEXT 0x100

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

static __always_inline int finish(struct __sk_buff *skb, int verdict)
{
	if (verdict < 0) {
		count(&fl_drops, -verdict, skb->len);
		return TC_ACT_SHOT;
	}
	if (verdict != VERDICT_NEXT)
		return verdict;
	count_path(skb, PATH_PASS);
	return TC_ACT_UNSPEC;
}
