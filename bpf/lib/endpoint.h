/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Endpoints and host ports, by the device their packets arrive at. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"

/* endpoint.flags */
enum ep_flag {
	EP_HOSTPORT = 1 << 0,	  /* the host port: any source, last resort of routing */
	EP_ANTISPOOF = 1 << 1,	  /* source MAC and addresses must be the endpoint's own */
	EP_PUBLISHED = 1 << 2,	  /* it is the backend of a published port */
	EP_INTERNAL = 1 << 3,	  /* its network has no default route */
	EP_ICC = 1 << 4,	  /* members of its network may reach each other */
	EP_MASQUERADE = 1 << 5,	  /* leaves the host with the uplink's address */
	EP_SHAPED = 1 << 6,	  /* packets to it must wait in its host end's queue */
	EP_DNS = 1 << 7,	  /* a host port at whose addresses the name server listens */
	EP_SERVICE = 1 << 8,	  /* not an endpoint: the virtual address of a service */
	EP_POOL = 1 << 9,	  /* it is a backend of a service */
	EP_REMOTE_POOL = 1 << 10, /* services of its network may have backends on other nodes */
	EP_OWN4 =
		1
		<< 11, /* IPv4 leaves the host with its own address, whatever EP_MASQUERADE says */
	EP_OWN6 = 1 << 12,    /* IPv6 likewise */
	EP_REACHED = 1 << 13, /* members of other networks may reach it at its own address */
	EP_EGRESS = 1 << 14,  /* its network chose an address to masquerade with (egress.h) */
	EP_GATED = 1 << 15,   /* it leaves its network only by way of a member (router.h) */
	/* From here on: not in fl_fdb and fl_neigh, whose entries have 16 bits for flags. */
	EP_LAN = 1 << 16, /* it is on the link of the uplink gateway_if (lan.h) */
};

/* fl_endpoint: ifindex of the host end (host port: of the datapath's end) -> */
struct endpoint {
	union ip ip4; /* v4-mapped; all zero: none */
	union ip ip6; /* all zero: none */
	union ip gw4; /* the gateway's addresses, likewise */
	union ip gw6;
	__u8 mac[6];
	__u8 gw_mac[6];
	__u32 net;	   /* network index, HBO, < MAX_NETWORKS */
	__u32 flags;	   /* enum ep_flag */
	__u32 hostport_if; /* ifindex of the network's host port, the datapath's end */
	__u32 gateway_if; /* ifindex of its other end, which has the gateway addresses; EP_LAN: of the uplink */
	__u32 mtu; /* of its own end, in bytes; 0: not known */
};
_Static_assert(sizeof(struct endpoint) == 96, "struct endpoint");

/* Endpoints and host ports by the device their packets arrive at. When it is full the endpoint
 * is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct endpoint);
} fl_endpoint SEC(".maps");

/* Do packets from the endpoint leave the host with the address of an uplink? */
static __always_inline bool endpoint_masquerades(const struct endpoint *ep, bool is4)
{
	return (ep->flags & (EP_MASQUERADE | (is4 ? EP_OWN4 : EP_OWN6))) == EP_MASQUERADE;
}

static __always_inline struct endpoint *endpoint_find(__u32 ifindex)
{
	return bpf_map_lookup_elem(&fl_endpoint, &ifindex);
}
