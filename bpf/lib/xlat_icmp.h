/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * ICMP errors of the other family (RFC 7915 sections 4.2, 4.3, 5.2 and 5.3).
 *
 * An error about a packet that was translated arrives in the family in which the packet left. It
 * is built from scratch, because all of it changes: both IP headers, type and code, and the
 * checksum, which in IPv6 covers a pseudo-header.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "csum.h"
#include "drop.h"
#include "icmp.h"
#include "icmp_msg.h"
#include "pkt.h"
#include "tuple.h"
#include "xlat.h"
#include "xlat_says.h"

/* Bytes of the embedded packet's layer 4 that are kept. */
#define XLAT_QUOTE_L4 (ICMP_QUOTE - sizeof(struct ipv6hdr))

/* Reads the meaning of error p and translates it. */
static __always_inline int xlat_says(struct __sk_buff *skb, const struct pkt *p,
				     struct xlat_says *s)
{
	struct {
		__u8 type;
		__u8 code;
		__be16 check;
		__be32 rest;
	} h;

	if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
		return -DROP_BAD_ICMP;
	s->kind = ICMP_KIND(h.type, h.code);
	s->rest = bpf_ntohl(h.rest);
	if (p->flags & PKT_IP4)
		xlat_says6(s);
	else
		xlat_says4(s);
	return s->kind == XLAT_NO_ICMP ? -DROP_UNSUPPORTED : 0;
}

/* Writes the IP header of an embedded packet, in the family of *t; len: of the data behind it. */
static __always_inline void xlat_embedded4(struct iphdr *ip, const struct pkt *in,
					   const struct tuple *t, __u32 len)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + len);
	ip->frag_off = bpf_htons(IP_DF);
	ip->ttl = in->ttl;
	ip->protocol = t->proto;
	ip->saddr = t->saddr.w[3];
	ip->daddr = t->daddr.w[3];
	ip->check = ~csum_fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void xlat_embedded6(struct ipv6hdr *ip, const struct pkt *in,
					   const struct tuple *t, __u32 len)
{
	ip->version = 6;
	ip->payload_len = bpf_htons(len);
	ip->nexthdr = t->proto;
	ip->hop_limit = in->ttl;
	__builtin_memcpy(&ip->saddr, &t->saddr, 16);
	__builtin_memcpy(&ip->daddr, &t->daddr, 16);
}

/* Writes the embedded packet into w->msg as w->key, which is of the other family than p.
 * Returns its length, or -DROP_X. Part of its layer 4 suffices to identify the flow. */
static __always_inline int xlat_quote(struct __sk_buff *skb, const struct pkt *p,
				      struct icmp_work *w)
{
	__u32 header = w->in.l4 - embedded_l3(p);
	__u32 len = w->in.len > header ? w->in.len - header : 0, n = p->len - (w->in.l4 - L3);
	__u8 *quote = w->msg.quote, *l4;

	if (p->flags & PKT_IP4) {
		header = sizeof(struct ipv6hdr);
		xlat_embedded6((void *)quote, &w->in, &w->key, len);
		l4 = quote + sizeof(struct ipv6hdr);
	} else {
		header = sizeof(struct iphdr);
		xlat_embedded4((void *)quote, &w->in, &w->key, len);
		l4 = quote + sizeof(struct iphdr);
	}
	if (n > XLAT_QUOTE_L4)
		n = XLAT_QUOTE_L4;
	/* Clang must neither remove the checks nor merge them nor test a copy: the verifier of
	 * kernel 6.1 would lose the bounds. */
	barrier_var(n);
	if (n > XLAT_QUOTE_L4)
		return -DROP_BAD_ICMP;
	barrier_var(n);
	if (n < 8)
		return -DROP_BAD_ICMP;
	barrier_var(n);
	if (bpf_skb_load_bytes(skb, w->in.l4, l4, n))
		return -DROP_BAD_ICMP;
	((__be16 *)l4)[0] = w->key.sport;
	((__be16 *)l4)[1] = w->key.dport;
	return header + n;
}

/* Replaces the whole packet by w->msg, which quotes this many bytes. */
static __always_inline int xlat_message(struct __sk_buff *skb, const struct pkt *p,
					struct icmp_work *w, __u32 quote)
{
	__u32 skip = p->flags & PKT_IP4 ? 0 : IP4_IN_IP6, len;

	if (p->flags & PKT_IP4)
		icmp_headers6(&w->msg, &w->to.saddr, &w->to.daddr, p->ttl, quote);
	else
		icmp_headers4(&w->msg, w->to.saddr.w[3], w->to.daddr.w[3], p->ttl, quote);
	barrier_var(quote);
	if (quote > ICMP_QUOTE)
		return -DROP_NAT_FAILED;
	len = sizeof(w->msg.ip) - skip + 8 + quote;
	if (xlat_proto(skb, p->flags & PKT_IP4 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)) ||
	    bpf_skb_change_tail(skb, L3 + len, 0) ||
	    bpf_skb_store_bytes(skb, L3, w->msg.ip + skip, len,
				BPF_F_INVALIDATE_HASH | BPF_F_RECOMPUTE_CSUM))
		return -DROP_NAT_FAILED;
	return 0;
}

/* xlat_icmp turns error p, about packet w->in, into one of the other family: from and to the
 * addresses of w->to, about packet w->key. p describes that error afterwards. */
static __noinline int xlat_icmp(struct __sk_buff *skb, struct pkt *p, struct icmp_work *w)
{
	struct xlat_says says;
	int quote, err;

	err = xlat_says(skb, p, &says);
	if (err)
		return err;
	__builtin_memset(&w->msg, 0, sizeof(w->msg));
	quote = xlat_quote(skb, p, w);
	if (quote < 0)
		return quote;
	w->msg.type = says.kind >> 8;
	w->msg.code = says.kind;
	w->msg.mtu = bpf_htonl(says.rest);
	w->to.proto = p->flags & PKT_IP4 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	err = xlat_message(skb, p, w, quote);
	if (err)
		return err;
	p->t = w->to;
	p->flags ^= PKT_IP4;
	p->l4 = L3 + (p->flags & PKT_IP4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	p->len = p->l4 - L3 + 8 + quote;
	return 0;
}
