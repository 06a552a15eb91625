/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Published ports: which backend serves (host address, port, protocol)? */

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "endpoint.h"
#include "neigh.h"
#include "subnet.h"

/* fl_publish: (host address, port, protocol) -> . An address of all zeros (IPv6) or
 * ::ffff:0.0.0.0 (IPv4) stands for every address of the host. */
struct publish_key {
	union ip addr;
	__be16 port; /* NBO */
	__u8 proto;
	__u8 pad[5];
};
_Static_assert(sizeof(struct publish_key) == 24, "struct publish_key");

struct publish {
	union ip addr; /* of the backend */
	__u32 ifindex; /* of the backend's host end */
	__u32 id;      /* model.Publish.ID */
	__be16 port;   /* NBO, of the backend */
	__u16 pad;
	__u32 net; /* network index of the backend */
};
_Static_assert(sizeof(struct publish) == 32, "struct publish");

/* Published ports. When it is full the publish is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct publish_key);
	__type(value, struct publish);
} fl_publish SEC(".maps");

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

/* The address that stands for every address of the host, in t's family. */
static __always_inline void publish_wildcard(union ip *a, bool is4)
{
	a->d[0] = 0;
	a->d[1] = 0;
	if (is4)
		a->w[2] = bpf_htonl(0xffff);
}

/* The publish that serves the port at addr, an address of the host. Not inlined, to save stack. */
static __noinline struct publish *publish_find(const union ip *addr, __be16 port, __u8 proto)
{
	struct publish_key k = { .addr = *addr, .port = port, .proto = proto };
	struct publish *b;

	b = bpf_map_lookup_elem(&fl_publish, &k);
	if (b || names_served(addr, port))
		return b;
	publish_wildcard(&k.addr, ip_is4(addr));
	return bpf_map_lookup_elem(&fl_publish, &k);
}
