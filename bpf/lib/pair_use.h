/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Using and completing cached pairs of members. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include "clock.h"
#include "config.h"
#include "count.h"
#include "decision.h"
#include "dest.h"
#include "drop.h"
#include "pair.h"
#include "pkt.h"
#include "segment.h"
#include "send.h"
#include "skb.h"
#include "tunnel.h"
#include "vxlan.h"

/* Sends a frame of pair s, whose receiver is on another node, or returns VERDICT_SLOW. Not inlined, to
 * save stack. */
static __noinline int pair_tunnel(struct __sk_buff *skb, struct pair *s)
{
	__u32 len = segment_len(skb);
	struct vxlan_head h = {};
	void *data;
	int verdict;

	if (s->tick != clock_tick() || !len || (s->mtu && len > s->mtu) || !is_ip(skb->protocol))
		return VERDICT_SLOW;
	h.sport = vxlan_sport(bpf_get_hash_recalc(skb));
	data = DATA(skb, 0);
	if (data + L3 + 2 > DATA_END(skb))
		return VERDICT_SLOW;
	__builtin_memcpy(&h.eth, data, ETH_HLEN);
	h.vni = s->vni;
	h.len = skb->len;
	s->hits++;
	count_traffic(s->net, DIR_FROM_ENDPOINT, skb->len);
	verdict = tunnel_wrap(skb, &h, &s->node, s->out, *(__be16 *)(data + L3));
	if (verdict >= 0)
		count(&fl_paths, PATH_TUNNEL, h.len);
	return finish(skb, verdict);
}

/* Sends a frame of a known pair of members, or returns VERDICT_SLOW. data: all of a plain IPv4 header
 * can be read there. */
static __always_inline int pair_use(struct __sk_buff *skb, void *data, __u64 now)
{
	struct pair *s = pair_slot(data, skb->ifindex);
	struct dest to = {};
	struct pair_key k;

	if (!s)
		return VERDICT_SLOW;
	s->seen = now;
	if (s->macs != *(__u64 *)data || !pair_key(&k, data, DATA_END(skb)) ||
	    !pair_is(s, &k, skb->ifindex))
		return VERDICT_SLOW;
	if (cfg_vxlan_port && s->kind == PAIR_TUNNEL)
		return pair_tunnel(skb, s);
	s->hits++;
	count_traffic(s->net, DIR_FROM_ENDPOINT, skb->len);
	to.kind = s->kind;
	to.ifindex = s->out;
	to.net = s->net;
	return send_device(skb, &to);
}

/* pair_complete records that the frames of this pair go to *to. Not inlined, to save stack. */
static __noinline void pair_complete(struct __sk_buff *skb, const struct dest *to)
{
	struct pair *s = pair_record(DATA(skb, 0), DATA_END(skb), skb->ifindex, to->net);

	if (!s)
		return;
	s->out = to->ifindex;
	s->kind = to->kind;
}
