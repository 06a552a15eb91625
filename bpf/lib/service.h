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

/* service.flags */
enum service_flag {
	SERVICE_POOL = 1 << 0,	 /* its backends are a pool (maglev.h) */
	SERVICE_DIRECT = 1 << 1, /* a port of the backend's own address (direct.h) */
	SERVICE_FROM = 1 << 2,	 /* only clients in fl_source reach it (source.h) */
};

/* fl_service: (host address, port, protocol) -> . An address of all zeros (IPv6) or
 * ::ffff:0.0.0.0 (IPv4) stands for every address of the host. An address of a sandbox has
 * SERVICE_DIRECT. Port 0 and protocol 0 of an address
 * inside of a network stand for all ports and protocols: it is the virtual address of a service. */
struct service_key {
	union ip addr;
	__be16 port; /* NBO */
	__u8 proto;
	__u8 pad[5];
};
_Static_assert(sizeof(struct service_key) == 24, "struct service_key");

struct service {
	__u32 id;    /* model.Publish.ID, or model.Service.Number: names the backends, and flows
		      * carry it */
	__be16 port; /* NBO, of every backend; 0: the one that the client uses */
	__u16 first; /* slot of the first backend */
	__u16 count; /* of backends, in successive slots; 0: SERVICE_POOL */
	__u16 flags; /* enum service_flag */
};
_Static_assert(sizeof(struct service) == 12, "struct service");

/* Published ports: one entry for each port of a range. When it is full the publish is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct service_key);
	__type(value, struct service);
} fl_service SEC(".maps");

/* fl_backend: (service, slot) -> */
struct backend_key {
	__u32 service; /* service.id */
	__u32 slot;
};

struct backend {
	union ip addr;
	__u32 ifindex; /* of its host end; VIA(net, 0): it is on another node */
	__u32 net;     /* network index */
	__u16 node;    /* reserved */
	__u16 pad[3];
};
_Static_assert(sizeof(struct backend) == 32, "struct backend");

/* Backends. All ports of a range, and all ports of a service, share them. When it is full the
 * publish is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct backend_key);
	__type(value, struct backend);
} fl_backend SEC(".maps");

#define DNS_PORT 53

/* Where the name server listens for queries that were redirected (resolver.h). It differs from
 * DNS_PORT so that a reply shows whether its query was, and because another program of the host may
 * have that port. */
#define RESOLVER_PORT 11053

/* Does the name server listen there? Then a port published at every address of the host does
 * not include this one. RESOLVER_PORT is the name server's at every gateway. */
static __always_inline bool names_served(const union ip *a, __be16 port)
{
	struct neigh_entry *n;
	__u32 net;

	if (port != bpf_htons(DNS_PORT) && port != bpf_htons(RESOLVER_PORT))
		return false;
	net = subnet_of(a);
	if (!net || !neigh_local(a, net, &n))
		return false;
	return n->flags & (port == bpf_htons(DNS_PORT) ? EP_DNS : EP_HOSTPORT);
}

/* The address that stands for every address of the host, in t's family. */
static __always_inline void service_wildcard(union ip *a, bool is4)
{
	a->d[0] = 0;
	a->d[1] = 0;
	if (is4)
		a->w[2] = bpf_htonl(0xffff);
}

/* The service at a port of addr, an address of the host. Not inlined, to save stack. */
static __noinline struct service *service_find(const union ip *addr, __be16 port, __u8 proto)
{
	struct service_key k = { .addr = *addr, .port = port, .proto = proto };
	struct service *s;

	s = bpf_map_lookup_elem(&fl_service, &k);
	if (s || names_served(addr, port))
		return s;
	service_wildcard(&k.addr, ip_is4(addr));
	return bpf_map_lookup_elem(&fl_service, &k);
}
