/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The name server of sandboxes: it listens on the host, at the gateway of one of a sandbox's
 * networks, and sandboxes query 127.0.0.11 (sock.bpf.c). */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"

/* 127.0.0.11, as in Docker */
#define RESOLVER_ADDR 0x7f00000b

/* fl_resolver: addresses of the name server for a network namespace, by its cookie. A query to
 * 127.0.0.11 goes to addr4; IPv6 sockets query addr6 itself. Zero: none. */
struct resolver {
	union ip addr4;
	union ip addr6;
};
_Static_assert(sizeof(struct resolver) == 32, "struct resolver");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct resolver);
} fl_resolver SEC(".maps");

static __always_inline struct resolver *resolver_of(__u64 netns_cookie)
{
	return bpf_map_lookup_elem(&fl_resolver, &netns_cookie);
}
