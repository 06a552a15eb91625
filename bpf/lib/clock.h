/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* CLOCK_MONOTONIC in seconds, at the resolution of the timer tick. */
static __always_inline __u32 now_seconds(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000ULL;
}

#define TICK_SHIFT 4

/* The time in ticks of 16 of the kernel's jiffies, which is 64 ms if there are 250 a second. It costs
 * no call. Never 0. */
static __always_inline __u32 clock_tick(void)
{
	__u32 tick = bpf_jiffies64() >> TICK_SHIFT;

	return tick ? tick : 1;
}
