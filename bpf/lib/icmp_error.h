/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Translating the ICMP errors that pass.
 *
 * An error embeds the packet it is about. That packet belongs to a flow whose replies would match
 * the reverse of the embedded tuple. The entry found there says how to translate the error's
 * destination and the embedded packet (RFC 5508 section 4.2).
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "csum.h"
#include "ct.h"
#include "cursor.h"
#include "drop.h"
#include "icmp.h"
#include "icmp_msg.h"
#include "parse.h"
#include "pkt.h"
#include "tuple.h"
#include "xlat_icmp.h"
#include "xlat_len.h"

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
		struct cursor c;
		struct ipv6hdr ip;

		cursor_begin(&c, skb);
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
		if (skip_exthdrs(&c, in) || in->flags & PKT_FRAG_LATER)
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

/* Translates the packet embedded in ICMP error p if it belongs to a flow whose replies come
 * from device in_if, or also from another, and sets w->to to the new addresses of the error itself. *out: the flow's
 * entry, or NULL. */
static __always_inline int icmp_related(struct __sk_buff *skb, struct pkt *p, __u32 in_if,
					__u32 also, struct icmp_work *w, struct ct_entry **out)
{
	bool confirmed, xlat;
	struct ct_entry *e;
	int err;

	*out = NULL;
	err = icmp_embedded(skb, p, &w->in);
	if (err)
		return err;
	tuple_reverse(&w->key, &w->in.t);
	e = ct_find(&w->key, &confirmed);
	if (!e || (e->in_if != in_if && e->in_if != also))
		return 0;
	w->to = p->t;
	w->to.daddr = e->xlat.daddr;
	/* The sender is the flow's own end and not a router on the path, or it has no address
	 * in the other family. */
	xlat = xlat_needed(p, &e->xlat.daddr);
	if (xlat || ip_equal(&p->t.saddr, &w->key.saddr))
		w->to.saddr = e->xlat.saddr;
	tuple_reverse(&w->key, &e->xlat);
	err = xlat ? xlat_icmp(skb, p, w) : icmp_rewrite_embedded(skb, p, &w->in, &w->key);
	if (err)
		return err;
	*out = e;
	return 0;
}
