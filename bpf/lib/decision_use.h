/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Using a cached decision: what a packet of a known flow becomes, and where it goes. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "clock.h"
#include "config.h"
#include "count.h"
#include "csum.h"
#include "ct.h"
#include "decision.h"
#include "decision_sum.h"
#include "dest.h"
#include "drop.h"
#include "icmp_msg.h"
#include "pkt.h"
#include "segment.h"
#include "send.h"
#include "skb.h"
#include "track.h"
#include "tuple.h"
#include "window.h"

/* Gives the packet the addresses, ports, hop limit and MACs that it leaves with. */
static __always_inline bool decision_write(struct __sk_buff *skb, const struct decision *d,
					   bool is4, __u32 l4)
{
	void *data = DATA(skb, 0);

	if (data + l4 + 8 > DATA_END(skb))
		return false;
	*(__u32 *)(data + l4) = ports_of(&d->to);
	if (is4) {
		struct iphdr *ip = data + L3;

		ip->check = ~csum_fold((__u64)(__u16)~ip->check + d->sum_addrs +
				       (__u16)~bpf_htons(0x0100));
		ip->saddr = d->to.saddr.w[3];
		ip->daddr = d->to.daddr.w[3];
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = data + L3;

		__builtin_memcpy(&ip->saddr, &d->to.saddr, 16);
		__builtin_memcpy(&ip->daddr, &d->to.daddr, 16);
		ip->hop_limit--;
	}
	if (d->kind != DEST_NEXT_HOP) {
		__builtin_memcpy(data, d->dmac, ETH_ALEN);
		__builtin_memcpy(data + ETH_ALEN, d->smac, ETH_ALEN);
	}
	return true;
}

static __always_inline int decision_send(struct __sk_buff *skb, struct decision *d)
{
	struct dest to = { .kind = d->kind, .ifindex = d->out, .net = d->to_net };

	if (d->kind != DEST_NEXT_HOP)
		return send_device(skb, &to);
	return send_next_hop(skb, d->out, &d->nh, d->mark);
}

/* Does the segment continue the numbers that decision d has? */
static __always_inline bool decision_continues(struct decision *d, const struct segment *s)
{
	return d->numbers && (s->flags & (TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK &&
	       numbers_continue(&d->end, &d->ack, &d->win, s->seq, s->seq_end, s->ack,
				(__u32)s->win << (d->scale & 15));
}

/* decision_follow follows the flow of segment *s, for which decision d was made, by its entry. Returns 0
 * if the decision holds, else VERDICT_SLOW or -DROP_X. Not inlined: most packets continue their
 * direction. */
static __noinline int decision_follow(struct decision *d, const struct segment *s, __u32 in_if)
{
	struct ct_entry *e = bpf_map_lookup_elem(&fl_ct, &d->key);
	struct icmp_work *w = icmp_scratch(); /* the stack is full */
	struct pkt *p;
	int err;

	if (!w || !e || e->in_if != in_if || e->flags & CT_F_STACK ||
	    !tuple_equal(&e->xlat, &d->to))
		return VERDICT_SLOW;
	p = &w->in;
	p->t = d->key;
	p->flags = s->pkt_flags;
	p->tcp_flags = s->flags;
	p->seq = s->seq;
	p->seq_end = s->seq_end;
	p->ack = s->ack;
	p->win = s->win;
	err = ct_hit(p, e, true);
	if (p->flags & PKT_STEADY && decision_touched(d))
		decision_lend(d, e);
	if (e->state >= CT_LAST_ACK)
		d->tick = 0; /* another flow may have the slot */
	return err;
}

/* Handles a packet by the decision for its direction of its flow, or returns VERDICT_SLOW. */
static __always_inline int decision_use(struct __sk_buff *skb, __u64 now, bool endpoint, bool is4)
{
	__u32 l4 = L3 + (is4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)), i, len, hlen = 8;
	void *data = DATA(skb, 0), *end = DATA_END(skb);
	struct tcp_head *h = data + l4;
	struct ipv6hdr *ip6 = data + L3;
	struct iphdr *ip = data + L3;
	__u64 saddr, daddr, other;
	struct segment s = {};
	__sum16 *check;
	__s32 size;
	struct decision *d;
	enum summed sum;
	__u8 proto, ttl;
	bool udp;
	int err = 0;

	if (data + l4 + 8 > end)
		return VERDICT_SLOW;
	if (is4) {
		if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_MF | IP_OFFSET))
			return VERDICT_SLOW;
		saddr = (__u64)ip->saddr << 32 | bpf_htonl(0xffff);
		daddr = (__u64)ip->daddr << 32 | bpf_htonl(0xffff);
		proto = ip->protocol;
		ttl = ip->ttl;
		s.pkt_flags = PKT_IP4;
		len = bpf_ntohs(ip->tot_len);
	} else {
		saddr = *(__u64 *)&ip6->saddr.in6_u.u6_addr32[2];
		daddr = *(__u64 *)&ip6->daddr.in6_u.u6_addr32[2];
		proto = ip6->nexthdr;
		ttl = ip6->hop_limit;
		len = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
	}
	udp = proto == IPPROTO_UDP;
	if (!udp) {
		if (proto != IPPROTO_TCP || (void *)(h + 1) > end || h->flags & TCP_SYN)
			return VERDICT_SLOW;
		hlen = (h->off >> 4) * 4;
		if (hlen < 20 || l4 + hlen > skb->len)
			return VERDICT_SLOW;
		s.flags = h->flags;
		s.seq = bpf_ntohl(h->seq);
		s.ack = bpf_ntohl(h->ack);
		s.win = bpf_ntohs(h->win);
	}
	if (udp && !endpoint && cfg_vxlan_port && h->ports >> 16 == bpf_htons(cfg_vxlan_port))
		return VERDICT_SLOW;
	i = decision_index(decision_hash(saddr, daddr, h->ports));
	d = bpf_map_lookup_elem(&fl_decision, &i);
	if (!d)
		return VERDICT_SLOW;
	d->seen = now;
	if ((d->key.saddr.d[1] ^ saddr) | (d->key.daddr.d[1] ^ daddr) |
	    (*(__u32 *)&d->key.sport ^ h->ports))
		return VERDICT_SLOW;
	other = (d->key.proto ^ proto) | (d->ifindex ^ skb->ifindex) | (d->generation ^ now) |
		(d->tick ^ clock_tick());
	if (is4)
		other |= d->key.saddr.d[0] | d->key.daddr.d[0];
	else
		other |= (d->key.saddr.d[0] ^ *(__u64 *)&ip6->saddr) |
			 (d->key.daddr.d[0] ^ *(__u64 *)&ip6->daddr);
	if (endpoint)
		other |= (d->macs ^ *(__u64 *)data) | (d->macs2 ^ *(__u32 *)(data + 8));
	sum = summed(skb);
	if (other || ttl <= 1 || (udp && sum == SUM_COMPLETE))
		return VERDICT_SLOW;
	/* As parse() counts it. */
	if ((skb->gso_size ? l4 - L3 + hlen + skb->gso_size : len) > d->mtu)
		return VERDICT_SLOW;
	size = (skb->gso_size ? skb->len : len + L3) - l4 - hlen;
	s.seq_end = s.seq + (size > 0 ? size : 0) + (s.flags & TCP_FIN);
	if (!udp && !decision_continues(d, &s)) {
		err = decision_follow(d, &s, endpoint ? skb->ifindex : 0);
		if (err == VERDICT_SLOW)
			return err;
	}
	d->hits++;
	count_traffic(d->net, DIR_FROM_ENDPOINT, skb->len);
	if (err)
		return finish(skb, err);
	if (!cfg_kern_ctx) {
		if (!decision_sum_helper(skb, d, is4, udp, l4 + (udp ? 6 : 16)))
			return finish(skb, -DROP_NAT_FAILED);
	} else {
		check = (void *)h + (udp ? 6 : 16);
		if ((void *)(check + 1) > end)
			return finish(skb, -DROP_MALFORMED);
		decision_sum(check, d, udp, sum);
		/* The addresses are balanced by the header's own sum, the ports by this one. */
		if (is4 && sum == SUM_COMPLETE)
			bpf_csum_update(skb, (__u16)~d->sum_addrs);
	}
	if (!is4 && (sum == SUM_COMPLETE || sum == SUM_UNKNOWN))
		bpf_csum_update(skb, (__u32)~bpf_htons(1)); /* as in decrement_ttl() */
	if (!decision_write(skb, d, is4, l4))
		return finish(skb, -DROP_NAT_FAILED);
	return decision_send(skb, d);
}
