//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * gc_flows removes flows for user space. User space reads a table and submits keys that look
 * expired. The program checks each of them again, so that a flow keeps its entries if a packet
 * arrived in between (the kernel has no compare-and-delete for maps).
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "lib/ct.h"
#include "lib/tuple.h"

/* fl_gc: input and output of gc_flows. User space writes keys of flows that look expired; the
 * program checks again and removes both entries, so that a flow keeps them if a packet arrives
 * in between. */
#define GC_BATCH 256
struct gc_batch {
	__u32 now;     /* CLOCK_MONOTONIC, seconds */
	__u32 count;   /* keys used */
	__u32 removed; /* out */
	__u32 force;   /* 1: remove even if not expired */
	struct tuple keys[GC_BATCH];
};

/* Global, so that it is verified once and not for each turn of the loop. */
__noinline int gc_one(const struct tuple *arg, __u32 now, bool force)
{
	struct ct_entry *e, *o;
	struct tuple key;
	bool confirmed;

	if (!arg)
		return 0;
	key = *arg;
	e = ct_find(&key, &confirmed);
	if (!e)
		return 0;
	if (!force) {
		if ((__s32)(e->expires - now) > 0)
			return 0;
		o = ct_partner(&key, e, confirmed);
		if (o && (__s32)(o->expires - now) > 0)
			return 0;
	}
	flow_forget(&key, &e->xlat, false);
	return 1;
}

/* The batch to process. It is a map because a program may not index its context. One caller at
 * a time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gc_batch);
} fl_gc SEC(".maps");

SEC("syscall")
int gc_flows(void *ctx)
{
	__u32 zero = 0, n, now, removed = 0;
	struct gc_batch *b = bpf_map_lookup_elem(&fl_gc, &zero);

	(void)ctx;
	if (!b)
		return 0;
	n = b->count;
	now = b->now;
	for (__u32 i = 0; i < GC_BATCH; i++) {
		if (i >= n)
			break;
		removed += gc_one(&b->keys[i], now, b->force);
	}
	b->removed = removed;
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
