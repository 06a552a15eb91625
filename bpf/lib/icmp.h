/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * ICMP errors: translating those that pass, and sending our own.
 *
 * An error embeds the packet it is about. That packet belongs to a flow whose replies would match
 * the reverse of the embedded tuple. The entry found there says how to translate the error's
 * destination and the embedded packet (RFC 5508 section 4.2).
 */

#include "deliver.h"

/* Bytes of the offending packet that our own errors quote: the IP header, options or extension
 * headers, and more than the 8 bytes that RFC 792 requires. */
#define ICMP_QUOTE 96

#define ICMP_TTL 64 /* of errors that this host sends */

/* The message under construction: an IP header, right-aligned, the ICMP header, and the quote. */
struct icmp_msg {
	__u8 ip[sizeof(struct ipv6hdr)]; /* an IPv4 header is at its end */
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 mtu; /* or the field that other types have there */
	__u8 quote[ICMP_QUOTE];
};

#define IP4_IN_IP6 (sizeof(struct ipv6hdr) - sizeof(struct iphdr))

/* Working memory while an ICMP error is translated or made. */
struct icmp_work {
	struct icmp_msg msg;
	struct pkt in;	  /* the embedded packet */
	struct tuple key; /* scratch */
	struct tuple to;  /* the error itself after translation */
};

/* Too big for the stack; bottom halves are off from look-up to use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct icmp_work);
} fl_icmp SEC(".maps");

static __always_inline struct icmp_work *icmp_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_icmp, &zero);
}

/* Offset of the embedded packet in the error p. */
static __always_inline __u32 embedded_l3(const struct pkt *p)
{
	return p->l4 + 8;
}

/* Reads the tuple of the packet embedded in the error p into *in. Its l4 is an
 * offset in the outer packet. */
static __always_inline int icmp_embedded(struct __sk_buff *skb, const struct pkt *p, struct pkt *in)
{
	__u32 l3 = embedded_l3(p);
	__be16 h[4];

	__builtin_memset(in, 0, sizeof(*in));
	if (p->flags & PKT_IP4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return -DROP_BAD_ICMP;
		ip_set4(&in->t.saddr, ip.saddr);
		ip_set4(&in->t.daddr, ip.daddr);
		in->t.proto = ip.protocol;
		in->l4 = l3 + ip.ihl * 4;
		in->len = bpf_ntohs(ip.tot_len);
		in->ttl = ip.ttl;
		in->flags = PKT_IP4;
		if (bpf_ntohs(ip.frag_off) & IP_OFFSET)
			return -DROP_BAD_ICMP;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return -DROP_BAD_ICMP;
		ip_set6(&in->t.saddr, &ip.saddr);
		ip_set6(&in->t.daddr, &ip.daddr);
		in->t.proto = ip.nexthdr;
		in->l4 = l3 + sizeof(ip);
		if (ip_is4(&in->t.saddr) || ip_is4(&in->t.daddr)) /* see parse_ip6 */
			return -DROP_BAD_ICMP;
		in->len = bpf_ntohs(ip.payload_len) + sizeof(ip);
		in->ttl = ip.hop_limit;
		if (skip_exthdrs(skb, in) || in->flags & PKT_FRAG_LATER)
			return -DROP_BAD_ICMP;
	}
	if (bpf_skb_load_bytes(skb, in->l4, h, sizeof(h)))
		return -DROP_BAD_ICMP;
	if (has_ports(in->t.proto)) {
		in->t.sport = h[0];
		in->t.dport = h[1];
	} else if (in->t.proto == IPPROTO_ICMP || in->t.proto == IPPROTO_ICMPV6) {
		icmp_tuple(&in->t, bpf_ntohs(h[0]) >> 8, h[2]);
	}
	return 0;
}

/* Writes the translated embedded packet's ports; returns their part of the
 * difference of the ICMP checksum. */
static __always_inline int icmp_embedded_ports(struct __sk_buff *skb, const struct pkt *in,
					       const struct tuple *to, __s64 *diff)
{
	__be16 old[2] = { in->t.sport, in->t.dport };
	__be16 new[2] = { to->sport, to->dport };

	if (old[0] == new[0] && old[1] == new[1])
		return 0;
	*diff = bpf_csum_diff((__be32 *)old, 4, (__be32 *)new, 4, *diff);
	if (has_ports(in->t.proto))
		return bpf_skb_store_bytes(skb, in->l4, new, sizeof(new), 0);
	if (old[0] != new[0])
		return bpf_skb_store_bytes(skb, in->l4 + 4, &new[0], 2, 0);
	return bpf_skb_store_bytes(skb, in->l4 + 4, &new[1], 2, 0);
}

/* Updates the embedded packet's own layer 4 checksum for its new addresses and ports, where the
 * quote is long enough to hold it. Adds that to the difference of the ICMP checksum. */
static __always_inline int icmp_embedded_sum(struct __sk_buff *skb, const struct pkt *in,
					     const struct tuple *to, __s64 *diff)
{
	__be16 old[2] = {}, new[2] = {};
	int off = csum_offset(in->t.proto);
	__u64 sum;

	if (off == CSUM_NONE || bpf_skb_load_bytes(skb, in->l4 + off, old, 2))
		return 0;
	if (in->t.proto == IPPROTO_UDP && !old[0])
		return 0; /* it has no checksum */
	sum = (__u64)(__u16)~old[0] + port_diff(in, to);
	if (in->t.proto != IPPROTO_ICMP)
		sum += addr_diff(&in->t.saddr, &to->saddr, in->flags & PKT_IP4) +
		       addr_diff(&in->t.daddr, &to->daddr, in->flags & PKT_IP4);
	new[0] = ~csum_fold(sum);
	if (in->t.proto == IPPROTO_UDP && !new[0])
		new[0] = 0xffff;
	*diff = bpf_csum_diff((__be32 *)old, 4, (__be32 *)new, 4, *diff);
	return bpf_skb_store_bytes(skb, in->l4 + off, new, 2, 0);
}

/* Rewrites the embedded packet to *to and updates its checksums and the error's. */
static __always_inline int icmp_rewrite_embedded(struct __sk_buff *skb, const struct pkt *p,
						 const struct pkt *in, const struct tuple *to)
{
	__u32 l3 = embedded_l3(p);
	__s64 diff = 0;

	if (icmp_embedded_sum(skb, in, to, &diff) || icmp_embedded_ports(skb, in, to, &diff))
		return -DROP_NAT_FAILED;
	if (p->flags & PKT_IP4) {
		__be32 a[2] = { to->saddr.w[3], to->daddr.w[3] };
		__s64 ipdiff = bpf_csum_diff((__be32 *)&in->t.saddr, 32, (__be32 *)&to->saddr, 32,
					     0);

		/* The embedded header's own checksum compensates for the addresses, so the ICMP
		 * checksum does not change. */
		if (bpf_l3_csum_replace(skb, l3 + 10, 0, ipdiff, 0) ||
		    bpf_skb_store_bytes(skb, l3 + 12, a, sizeof(a), 0))
			return -DROP_NAT_FAILED;
	} else {
		diff = bpf_csum_diff((__be32 *)&in->t.saddr, 32, (__be32 *)&to->saddr, 32, diff);
		if (bpf_skb_store_bytes(skb, l3 + 8, &to->saddr, 32, 0))
			return -DROP_NAT_FAILED;
	}
	if (diff && bpf_l4_csum_replace(skb, p->l4 + 2, 0, diff, 0))
		return -DROP_NAT_FAILED;
	return 0;
}

/* An ICMP message's type and code in one argument. */
#define ICMP_KIND(type, code) ((type) << 8 | (code))

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

static __always_inline void icmp_headers4(struct icmp_msg *m, __be32 src, __be32 dst, __u8 ttl,
					  __u32 quote)
{
	struct iphdr *ip = (void *)(m->ip + IP4_IN_IP6);

	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + 8 + quote);
	ip->ttl = ttl;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = src;
	ip->daddr = dst;
	ip->check = ~csum_fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
	m->check = ~csum_fold(bpf_csum_diff(0, 0, (__be32 *)&m->type, 8 + ICMP_QUOTE, 0));
}

static __always_inline void icmp_headers6(struct icmp_msg *m, const union ip *src,
					  const union ip *dst, __u8 ttl, __u32 quote)
{
	struct {
		union ip s, d;
		__be32 len;
		__be32 next;
	} pseudo = { *src, *dst, bpf_htonl(8 + quote), bpf_htonl(IPPROTO_ICMPV6) };
	struct ipv6hdr *ip = (void *)m->ip;
	__u32 sum;

	ip->version = 6;
	ip->payload_len = bpf_htons(8 + quote);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = ttl;
	__builtin_memcpy(&ip->saddr, src, 16);
	__builtin_memcpy(&ip->daddr, dst, 16);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	m->check = ~csum_fold(bpf_csum_diff(0, 0, (__be32 *)&m->type, 8 + ICMP_QUOTE, sum));
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
