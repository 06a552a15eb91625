/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Handling packets as those before them: by pairs (pair.h), then by decisions (decision.h). */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "decision.h"
#include "decision_use.h"
#include "generation.h"
#include "pair_use.h"
#include "pkt.h"
#include "skb.h"

/* Handles a packet as those before it, or returns VERDICT_SLOW. endpoint: it is from one, or from a
 * host port; else it arrived at an uplink. */
static __always_inline int cached(struct __sk_buff *skb, bool endpoint)
{
	void *data = DATA(skb, 0);
	__u64 now = generation();
	__be16 proto;

	if (!cfg_cache || skb->vlan_present || data + L3 + sizeof(struct iphdr) > DATA_END(skb))
		return VERDICT_SLOW;
	if (!endpoint && skb->pkt_type != 0)
		return VERDICT_SLOW;
	proto = *(__be16 *)(data + 2 * ETH_ALEN);
	if (endpoint) {
		int verdict = pair_use(skb, data, now);

		if (verdict != VERDICT_SLOW)
			return verdict;
	}
	if (!endpoint && skb->protocol != proto)
		return VERDICT_SLOW;
	if (proto == bpf_htons(ETH_P_IP))
		return decision_use(skb, now, endpoint, true);
	if (proto == bpf_htons(ETH_P_IPV6))
		return decision_use(skb, now, endpoint, false);
	return VERDICT_SLOW;
}

/* Not inlined, because the stack of the programs themselves is full. */
static __noinline int cached_from_endpoint(struct __sk_buff *skb)
{
	return cached(skb, true);
}

static __noinline int cached_from_uplink(struct __sk_buff *skb)
{
	return cached(skb, false);
}
