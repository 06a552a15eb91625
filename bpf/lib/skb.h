/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The packet's buffer. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "cursor.h"
#include "drop.h"
#include "parse.h"
#include "pkt.h"

/* have makes the first len bytes readable directly. It returns false if the packet is shorter.
 * It may move the packet. */
static __always_inline bool have(struct __sk_buff *skb, __u32 len)
{
	if (skb->data + (__u64)len <= skb->data_end)
		return true;
	return !bpf_skb_pull_data(skb, len) && skb->data + (__u64)len <= skb->data_end;
}

#define DATA(skb, off) ((void *)(long)(skb)->data + (off))
#define DATA_END(skb) ((void *)(long)(skb)->data_end)

/* Fills *p, which is all zero. Global, so that it is verified once. */
__noinline int parse_into(struct __sk_buff *skb, struct pkt *p, __be16 eth_proto)
{
	struct cursor c;

	if (!p)
		return -DROP_MALFORMED;
	cursor_begin(&c, skb);
	return parse_packet(&c, p, eth_proto);
}

/* parse fills *p from an IP packet. eth_proto: ETH_P_IP or ETH_P_IPV6, NBO. Later fragments get
 * their ports from the first. */
static __always_inline int parse(struct __sk_buff *skb, struct pkt *p, __be16 eth_proto)
{
	/* Here, because kernel 6.1 passes only initialised memory to a global function. */
	__builtin_memset(p, 0, sizeof(*p));
	return parse_into(skb, p, eth_proto);
}
