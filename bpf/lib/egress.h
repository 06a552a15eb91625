/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The addresses that networks chose to masquerade with, in place of an uplink's. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "endpoint.h"

/* fl_egress: network index -> */
struct egress {
	union ip ip4; /* v4-mapped; all zero: the uplink's */
	union ip ip6; /* all zero: the uplink's */
};
_Static_assert(sizeof(struct egress) == 32, "struct egress");

/* Only networks whose endpoints have EP_EGRESS. When it is full the network is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct egress);
} fl_egress SEC(".maps");

/* Returns the address that the network of endpoint ep chose for a family, or NULL. */
static __always_inline const union ip *egress_addr(const struct endpoint *ep, bool is4)
{
	struct egress *e;
	const union ip *a;
	__u32 net = ep->net;

	if (!(ep->flags & EP_EGRESS))
		return NULL;
	e = bpf_map_lookup_elem(&fl_egress, &net);
	if (!e)
		return NULL;
	a = is4 ? &e->ip4 : &e->ip6;
	return ip_is_zero(a) ? NULL : a;
}
