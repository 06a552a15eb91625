/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Completing and using cached decisions (decision.h, pair.h). */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "clock.h"
#include "config.h"
#include "count.h"
#include "csum.h"
#include "ct.h"
#include "decision.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fib.h"
#include "generation.h"
#include "icmp_msg.h"
#include "pair.h"
#include "pkt.h"
#include "send.h"
#include "skb.h"
#include "track.h"
#include "tunnel.h"
#include "tuple.h"
#include "vxlan.h"
#include "window.h"

/* No decision holds for the packet. */
#define VERDICT_SLOW 0x400

/* Provided by the kernel (6.2); the loader sets cfg_kern_ctx where it is. */
void *bpf_cast_to_kern_ctx(void *obj) __ksym __weak;

/* The kernel's struct, of which only this field is read. */
struct sk_buff___summed {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

/* sk_buff.ip_summed (include/linux/skbuff.h); SUM_UNKNOWN: this kernel does not show it. */
enum summed {
	SUM_NONE,
	SUM_UNNECESSARY,
	SUM_COMPLETE,
	SUM_PARTIAL,
	SUM_UNKNOWN,
};

static __always_inline enum summed summed(struct __sk_buff *skb)
{
	struct sk_buff___summed *k;

	if (!cfg_kern_ctx)
		return SUM_UNKNOWN;
	k = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(k, ip_summed);
}

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

/* A TCP header's fields from the sequence number on (RFC 9293 section 3.1). */
struct tcp_head {
	__be32 ports;
	__be32 seq;
	__be32 ack;
	__u8 off; /* length in 32-bit words, upper half */
	__u8 flags;
	__be16 win;
	__sum16 check;
};

/* Updates the checksum at *check of layer 4. */
static __always_inline void decision_sum(__sum16 *check, const struct decision *d, bool udp,
					 enum summed summed)
{
	__u16 sum;

	if (summed == SUM_PARTIAL) { /* that of the pseudo-header only */
		*check = csum_fold((__u64)*check + d->sum_addrs);
		return;
	}
	if (udp && !*check)
		return; /* there is none */
	sum = ~csum_fold((__u64)(__u16) ~*check + d->sum_addrs + d->sum_ports);
	*check = udp && !sum ? 0xffff : sum;
}

/* The same by the kernel's helpers, which know what sum the packet has. */
static __always_inline bool decision_sum_helper(struct __sk_buff *skb, const struct decision *d,
						bool is4, bool udp, __u32 check)
{
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(skb, check, 0, d->sum_ports, flags) ||
	    bpf_l4_csum_replace(skb, check, 0, d->sum_addrs, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (!is4)
		bpf_csum_update(skb, d->sum_addrs); /* as in sum_addrs() */
	return true;
}

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

/* What a segment of TCP says, HBO. */
struct segment {
	__u32 seq;
	__u32 seq_end; /* after the last byte; FIN counts as one */
	__u32 ack;
	__u16 win;
	__u8 flags; /* byte 13 of the header */
	__u8 pkt_flags;
};

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

/* The length of the IP packet behind Ethernet, in bytes, or that of its segments; 0: not known. */
static __always_inline __u32 segment_len(struct __sk_buff *skb)
{
	__u32 l4 = L3 + (skb->protocol == bpf_htons(ETH_P_IP) ? sizeof(struct iphdr) :
								sizeof(struct ipv6hdr));
	void *data = DATA(skb, 0);
	struct tcp_head *h = data + l4;
	__u8 proto;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN;
	if ((void *)(h + 1) > DATA_END(skb))
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		proto = *(__u8 *)(data + L3) == 0x45 ? *(__u8 *)(data + L3 + 9) : 0;
	else
		proto = *(__u8 *)(data + L3 + 6);
	return proto == IPPROTO_TCP ? l4 - L3 + (h->off >> 4) * 4 + skb->gso_size : 0;
}

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
