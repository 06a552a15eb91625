/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Addresses of the host itself. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "subnet.h"

/* Addresses of the host itself, including gateway addresses, without the loopback. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, union ip);
	__type(value, __u32);
} fl_hostaddr SEC(".maps");

/* Prefixes all of whose addresses belong to the host: local routes without an address ("ip
 * route add local PREFIX dev lo"). When it is full, a further prefix is not treated as the
 * host's. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct subnet_key);
	__type(value, __u32);
} fl_hostnet SEC(".maps");

/* Does the address belong to the host? A local route can make a whole prefix local. Not
 * inlined, because the callers' stack is full. */
static __noinline bool host_addr(const union ip *a)
{
	struct subnet_key k = { .prefixlen = 128, .addr = *a };

	return bpf_map_lookup_elem(&fl_hostaddr, a) || bpf_map_lookup_elem(&fl_hostnet, &k);
}
