/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Uplinks: the devices through which packets leave and enter the host. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"

/* fl_uplink: ifindex -> */
struct uplink {
	union ip ip4; /* to masquerade with if the route prefers none; zero if absent */
	union ip ip6;
	__u32 flags; /* enum up_flag */
	__u32 lan;   /* UP_LAN: the network, HBO */
};
_Static_assert(sizeof(struct uplink) == 40, "struct uplink");

enum up_flag {
	/* A bridge of containers or guests that other programs manage: the stack forwards
	 * packets to it, so that the rules of those programs hold. */
	UP_STACK = 1 << 0,
	/* From this bit on: the number of uplinks below this one that a packet still passes, as
	 * when a macvlan device is on a card. Only one may translate it. */
	UP_BELOW = 1 << 8,
	/* A network has members on the link of this uplink (lan.h). Next to UP_BELOW, so that the mark
	 * of a translated packet says so, too. */
	UP_LAN = 1 << 11,
};
#define UP_BELOW_MAX 7
#define UP_MARK_LAN (UP_LAN / UP_BELOW)

/* Uplinks by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct uplink);
} fl_uplink SEC(".maps");

static __always_inline struct uplink *uplink_find(__u32 ifindex)
{
	return bpf_map_lookup_elem(&fl_uplink, &ifindex);
}
