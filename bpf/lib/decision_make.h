/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Completing a cached decision. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "clock.h"
#include "count.h"
#include "csum.h"
#include "decision.h"
#include "dest.h"
#include "endpoint.h"
#include "fib.h"
#include "pkt.h"
#include "send.h"
#include "skb.h"
#include "tuple.h"

/* Begins the record that packets as p become *to. p is not yet rewritten. Returns NULL if it cannot
 * be recorded. */
static __always_inline struct decision *decision_record(struct __sk_buff *skb, const struct pkt *p,
							const struct tuple *to)
{
	__u32 i = decision_index(decision_hash_of(&p->t));
	struct decision *d = bpf_map_lookup_elem(&fl_decision, &i);
	bool is4 = p->flags & PKT_IP4;

	if (!d || !have(skb, ETH_HLEN) || DATA(skb, ETH_HLEN) > DATA_END(skb))
		return NULL;
	d->macs = *(__u64 *)DATA(skb, 0);
	d->macs2 = *(__u32 *)DATA(skb, 8);
	d->to = *to;
	d->sum_addrs = csum_fold(addr_diff(&p->t.saddr, &to->saddr, is4) +
				 addr_diff(&p->t.daddr, &to->daddr, is4));
	d->sum_ports = csum_fold(port_diff(p, to));
	return d;
}

/* Completes the record. net: the network index that the packets are accounted to as they arrive. */
static __always_inline void decision_holds(struct decision *d, __u32 net)
{
	d->net = net;
	d->generation = d->seen;
	d->tick = clock_tick();
}

/* Packets as p, which decision_begin found to be of use, become *to and leave by hop. Not inlined:
 * few packets come here. */
static __noinline void decision_next_hop(struct __sk_buff *skb, const struct pkt *p,
					 const struct tuple *to, const struct next_hop *hop,
					 __u32 net)
{
	struct decision *d = decision_record(skb, p, to);

	if (!d || !hop->mtu)
		return;
	d->kind = DEST_NEXT_HOP;
	d->mtu = hop->mtu;
	d->out = hop->ifindex;
	d->mark = next_hop_mark(hop);
	d->nh = hop->nh;
	decision_holds(d, net);
}

/* The same, to endpoint *ep, whose device is ifindex. */
static __noinline void decision_endpoint(struct __sk_buff *skb, const struct pkt *p,
					 const struct tuple *to, const struct endpoint *ep,
					 __u32 ifindex)
{
	struct endpoint *from = endpoint_find(skb->ifindex);
	struct decision *d = decision_record(skb, p, to);
	struct dest dest;

	if (!d)
		return;
	dest_device(&dest, ifindex, ep->net, ep->flags);
	d->kind = dest.kind;
	d->mtu = !from && ep->mtu ? ep->mtu : 0xffffffff;
	d->out = dest.ifindex;
	d->to_net = dest.net;
	__builtin_memcpy(d->dmac, ep->mac, ETH_ALEN);
	__builtin_memcpy(d->smac, ep->gw_mac, ETH_ALEN);
	decision_holds(d, from ? from->net : NET_UPLINKS);
}
