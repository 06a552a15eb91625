/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The generation of everything that a cached decision (decision.h, pair.h) depends on, besides the
 * kernel's routes. It changes whenever the daemon has written a table that decisions are made from
 * (maps/generation.go), and whenever a flow is removed. The programs read the generation
 * before the first lookup for a decision. The decision holds until it changes.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The programs count in the lower half, the daemon in the upper one. The daemon may overwrite what a
 * program counts at that moment; the value has never been there before, either way. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fl_generation SEC(".maps");

static __always_inline __u64 generation(void)
{
	__u32 zero = 0;
	__u64 *g = bpf_map_lookup_elem(&fl_generation, &zero);

	return g ? *(volatile __u64 *)g : 0;
}

/* Ends all cached decisions, on every CPU. */
static __always_inline void generation_next(void)
{
	__u32 zero = 0;
	__u64 *g = bpf_map_lookup_elem(&fl_generation, &zero);

	if (g)
		__sync_fetch_and_add(g, 1);
}
