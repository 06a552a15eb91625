/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Which network does an address belong to, and which member has it? */

#include <bpf/bpf_endian.h>
#include <stdbool.h>
#include "maps.h"

/* Returns the network whose subnet contains the address, or 0. */
static __always_inline __u32 subnet_of(const union ip *a)
{
	struct subnet_key k = { .prefixlen = 128, .addr = *a };
	__u32 *net = bpf_map_lookup_elem(&fl_subnet, &k);

	return net ? *net : 0;
}

/* Does the address belong to the host? A local route can make a whole prefix local. Not
 * inlined, because the callers' stack is full. */
static __noinline bool host_addr(const union ip *a)
{
	struct subnet_key k = { .prefixlen = 128, .addr = *a };

	return bpf_map_lookup_elem(&fl_hostaddr, a) || bpf_map_lookup_elem(&fl_hostnet, &k);
}

static __always_inline int neigh_find(const union ip *a, __u32 net, struct neigh_entry **n)
{
	struct neigh_key k = { .addr = *a, .net = net };

	*n = bpf_map_lookup_elem(&fl_neigh, &k);
	return *n != NULL;
}

#define DNS_PORT 53

/* Does the name server listen there? Then a port published at every address of the host does
 * not include this one. */
static __always_inline bool names_served(const union ip *a, __be16 port)
{
	struct neigh_entry *n;
	__u32 net;

	if (port != bpf_htons(DNS_PORT))
		return false;
	net = subnet_of(a);
	return net && neigh_find(a, net, &n) && n->flags & EP_DNS;
}
