/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Which clients may begin a flow to a published port? Only services with SERVICE_FROM limit them. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "service.h"

/* fl_source: longest prefix match over the prefixes from which a service is reached -> 1 */
struct source_key {
	__u32 prefixlen; /* 64 + 0..128; that of an IPv4 /n is 64 + 96 + n */
	__u32 service;	 /* service.id */
	__u32 ip4; /* 1: the prefix is IPv4's. The common form of IPv4 addresses is in ::/0, too */
	union ip addr;
} __attribute__((packed, aligned(4))); /* as struct subnet_key */
_Static_assert(sizeof(struct source_key) == 28, "struct source_key");

/* Prefixes of clients. All ports of a range share them. When it is full the publish is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct source_key);
	__type(value, __u32);
} fl_source SEC(".maps");

/* Not inlined, to save stack. */
static __noinline bool source_listed(__u32 service, const union ip *client)
{
	struct source_key k = {
		.prefixlen = 64 + 128, .service = service, .ip4 = ip_is4(client), .addr = *client
	};

	return bpf_map_lookup_elem(&fl_source, &k);
}

/* May this client, by its own address, begin a flow to the service? */
static __always_inline bool source_allowed(const struct service *s, const union ip *client)
{
	return !(s->flags & SERVICE_FROM) || source_listed(s->id, client);
}
