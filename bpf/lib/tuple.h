/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What identifies the packets of one direction of a flow. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"

/* A packet's flow, as in the packet itself. ICMP: in a request, and in any other type but a
 * reply, ask is the type and sport the id. In a reply, answer is the request's type and dport
 * the id. The others are 0, and so is the id of types that have none. Protocols without ports:
 * both are 0. */
struct tuple {
	union ip saddr;
	union ip daddr;
	__be16 sport; /* NBO */
	__be16 dport; /* NBO */
	__u8 proto;   /* IPPROTO_ */
	__u8 ask;
	__u8 answer;
	__u8 pad;
};
_Static_assert(sizeof(struct tuple) == 40, "struct tuple");

static __always_inline void tuple_reverse(struct tuple *out, const struct tuple *in)
{
	out->saddr = in->daddr;
	out->daddr = in->saddr;
	out->sport = in->dport;
	out->dport = in->sport;
	out->proto = in->proto;
	out->ask = in->answer;
	out->answer = in->ask;
	out->pad = 0;
}

/* One branch instead of seven: each would double the paths the verifier walks. */
static __always_inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
	return !((a->saddr.d[0] ^ b->saddr.d[0]) | (a->saddr.d[1] ^ b->saddr.d[1]) |
		 (a->daddr.d[0] ^ b->daddr.d[0]) | (a->daddr.d[1] ^ b->daddr.d[1]) |
		 (a->sport ^ b->sport) | (a->dport ^ b->dport) | (a->proto ^ b->proto) |
		 (a->ask ^ b->ask) | (a->answer ^ b->answer));
}
