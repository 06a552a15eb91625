/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* ICMP errors that this host sends. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "count.h"
#include "drop.h"
#include "icmp.h"
#include "icmp_msg.h"
#include "pkt.h"

#define ICMP_TTL 64 /* of errors that this host sends */

/* Shortens the packet to the quoted part and copies that to m. */
static __always_inline bool icmp_quote(struct __sk_buff *skb, struct icmp_msg *m, __u32 quote)
{
	if (bpf_skb_change_tail(skb, L3 + quote, 0))
		return false;
	barrier_var(quote); /* or clang drops the check the verifier needs */
	if (quote < 28 || quote > ICMP_QUOTE)
		return false;
	return !bpf_skb_load_bytes(skb, L3, m->quote, quote);
}

/* icmp_error turns the packet into an error about itself, from address src to its sender,
 * with the Ethernet addresses swapped. kind: ICMP_KIND; mtu: for "too big", else 0. */
__noinline int icmp_error(struct __sk_buff *skb, const struct pkt *p, const union ip *src,
			  __u32 kind, __u32 mtu)
{
	struct icmp_work *w = icmp_scratch();
	__u8 macs[2][ETH_ALEN];
	struct icmp_msg *m;
	__u32 quote, skip;

	if (!w || !p || !src)
		return -DROP_NAT_FAILED;
	m = &w->msg;
	quote = p->len < ICMP_QUOTE ? p->len : ICMP_QUOTE;
	skip = p->flags & PKT_IP4 ? IP4_IN_IP6 : 0;
	/* Never an error about an error or a later fragment (RFC 1122 section 3.2.2). */
	if (p->flags & (PKT_ICMP_ERROR | PKT_FRAG_LATER))
		return -DROP_BAD_ICMP;
	__builtin_memset(m, 0, sizeof(*m));
	if (!icmp_quote(skb, m, quote))
		return -DROP_NAT_FAILED;
	m->type = kind >> 8;
	m->code = kind;
	m->mtu = bpf_htonl(mtu);
	if (p->flags & PKT_IP4)
		icmp_headers4(m, src->w[3], p->t.saddr.w[3], ICMP_TTL, quote);
	else
		icmp_headers6(m, src, &p->t.saddr, ICMP_TTL, quote);
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_adjust_room(skb, sizeof(m->ip) - skip + 8, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, L3, m->ip + skip, sizeof(m->ip) - skip + 8,
				BPF_F_INVALIDATE_HASH | BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, 0, macs[1], ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, macs[0], ETH_ALEN, 0))
		return -DROP_NAT_FAILED;
	return 0;
}

/* ICMP errors sent to the outside in a tick of 67 ms, by one processor: nearly a thousand a
 * second, the default of net.ipv4.icmp_msgs_per_sec, so that they cannot be used to flood a
 * third party. */
#define ICMP_TICK_SHIFT 26
#define ICMP_PER_TICK 64

struct icmp_budget {
	__u64 tick;
	__u64 sent; /* in this tick */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct icmp_budget);
} fl_icmp_rate SEC(".maps");

static __always_inline bool icmp_may_send(void)
{
	__u64 tick = bpf_ktime_get_coarse_ns() >> ICMP_TICK_SHIFT;
	struct icmp_budget *b;
	__u32 zero = 0;

	b = bpf_map_lookup_elem(&fl_icmp_rate, &zero);
	if (!b)
		return false;
	if (b->tick != tick) {
		b->tick = tick;
		b->sent = 0;
	}
	return b->sent++ < ICMP_PER_TICK;
}

/* Turns packet p into an ICMP error to its sender, from src, and sends that back out of the
 * device the packet arrived at. The packet still counts as refused for refusal (-DROP_X). */
static __always_inline int icmp_refuse(struct __sk_buff *skb, const struct pkt *p,
				       const union ip *src, __u32 kind, __u32 mtu, int refusal)
{
	__u32 len = skb->len;

	if (ip_is_zero(src) || icmp_error(skb, p, src, kind, mtu))
		return refusal;
	/* Counted here, because the packet itself becomes the error. */
	count(&fl_drops, -refusal, len);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline __u32 icmp_time_exceeded(const struct pkt *p)
{
	return ICMP_KIND(p->flags & PKT_IP4 ? ICMP_TIME_EXCEEDED : ICMPV6_TIME_EXCEED, 0);
}
