/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Rewriting packets to a translated tuple. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "csum.h"
#include "drop.h"
#include "pkt.h"
#include "skb.h"
#include "tuple.h"
#include "xlat.h"
#include "xlat_len.h"

/* Updates the layer 4 checksum for the ports, or for the ICMP echo id. */
static __always_inline int sum_ports(struct __sk_buff *skb, const struct pkt *p,
				     const struct tuple *to)
{
	int csum = csum_offset(p->t.proto);

	if (csum == CSUM_NONE)
		return -DROP_UNSUPPORTED; /* SCTP's CRC32c, RFC 9260 section 6.8 */
	return bpf_l4_csum_replace(skb, p->l4 + csum, 0, port_diff(p, to), csum_flags(p->t.proto)) ?
		       -DROP_NAT_FAILED :
		       0;
}

/* Updates the checksums of layer 4 and of the packet for the addresses. xlat: the header that
 * holds the addresses will be replaced, which updates the packet's checksum. */
static __always_inline int sum_addrs(struct __sk_buff *skb, const struct pkt *p, __u16 diff,
				     bool xlat)
{
	int csum = csum_offset(p->t.proto);

	/* ICMPv4 has no pseudo-header. */
	if (csum != CSUM_NONE && p->t.proto != IPPROTO_ICMP && !(p->flags & PKT_FRAG_LATER) &&
	    bpf_l4_csum_replace(skb, p->l4 + csum, 0, diff,
				BPF_F_PSEUDO_HDR | csum_flags(p->t.proto)))
		return -DROP_NAT_FAILED;
	/* IPv6 has no header checksum to balance the addresses. For a packet summed by the
	 * network card (CHECKSUM_COMPLETE) the helper above subtracts them, as for IPv4, unless
	 * a flag that kernels before 6.16 lack says otherwise. For other packets, both calls
	 * leave skb->csum alone. */
	if (!(p->flags & PKT_IP4) && !xlat)
		bpf_csum_update(skb, diff);
	return 0;
}

/* Writes the addresses and, for IPv4, updates the header's checksum. */
static __always_inline int store_addrs(struct __sk_buff *skb, const struct pkt *p,
				       const struct tuple *to, __u64 diff)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (p->flags & PKT_IP4) {
		if (!have(skb, L3 + sizeof(*ip)))
			return -DROP_NAT_FAILED;
		ip = DATA(skb, L3);
		if ((void *)(ip + 1) > DATA_END(skb))
			return -DROP_NAT_FAILED;
		ip->check = ~csum_fold((__u16)~ip->check + diff);
		ip->saddr = to->saddr.w[3];
		ip->daddr = to->daddr.w[3];
		return 0;
	}
	if (!have(skb, L3 + sizeof(*ip6)))
		return -DROP_NAT_FAILED;
	ip6 = DATA(skb, L3);
	if ((void *)(ip6 + 1) > DATA_END(skb))
		return -DROP_NAT_FAILED;
	__builtin_memcpy(&ip6->saddr, &to->saddr, 16);
	__builtin_memcpy(&ip6->daddr, &to->daddr, 16);
	return 0;
}

static __always_inline int store_ports(struct __sk_buff *skb, const struct pkt *p,
				       const struct tuple *to)
{
	/* Without options or extension headers they are written in place. */
	__u32 plain = p->flags & PKT_IP4 ? L3 + sizeof(struct iphdr) : L3 + sizeof(struct ipv6hdr);
	__be16 ports[2] = { to->sport, to->dport }, *h = DATA(skb, plain);
	__be16 id = p->t.answer ? to->dport : to->sport;

	if (has_ports(p->t.proto) && p->l4 == plain && (void *)(h + 2) <= DATA_END(skb)) {
		h[0] = ports[0];
		h[1] = ports[1];
		return 0;
	}
	if (p->t.proto == IPPROTO_ICMP || p->t.proto == IPPROTO_ICMPV6)
		return bpf_skb_store_bytes(skb, p->l4 + 4, &id, 2, 0) ? -DROP_NAT_FAILED : 0;
	return bpf_skb_store_bytes(skb, p->l4, ports, sizeof(ports), 0) ? -DROP_NAT_FAILED : 0;
}

/* nat_rewrite gives the packet the addresses and ports of *to, and headers of their family.
 * Pointers into the packet are invalid afterwards; p keeps the old tuple. */
__noinline int nat_rewrite(struct __sk_buff *skb, struct pkt *p, const struct tuple *to)
{
	bool is4, ports, addrs, xlat;
	__u64 diff;
	int err;

	if (!p || !to)
		return -DROP_NAT_FAILED;
	is4 = p->flags & PKT_IP4;
	/* Later fragments have no ports. */
	ports = (p->t.sport != to->sport || p->t.dport != to->dport) &&
		!(p->flags & PKT_FRAG_LATER);
	addrs = !ip_equal(&p->t.saddr, &to->saddr) || !ip_equal(&p->t.daddr, &to->daddr);
	if (ports) {
		err = sum_ports(skb, p, to);
		if (!err)
			err = store_ports(skb, p, to);
		if (err)
			return err;
	}
	if (!addrs)
		return 0;
	/* In a checksum the mapped form of an IPv4 address counts as much as the address. */
	xlat = xlat_needed(p, &to->daddr);
	is4 = is4 && !xlat;
	diff = addr_diff(&p->t.saddr, &to->saddr, is4) + addr_diff(&p->t.daddr, &to->daddr, is4);
	if (xlat && p->flags & PKT_IP4 && udp_without_sum(skb, p)) {
		/* Nothing balanced the ports in the packet's checksum (CHECKSUM_COMPLETE). */
		bpf_csum_update(skb, port_diff(p, to));
		err = xlat_udp_sum(skb, p, to);
	} else {
		err = sum_addrs(skb, p, csum_fold(diff), xlat);
	}
	if (err)
		return err;
	return xlat ? xlat_headers(skb, p, to) : store_addrs(skb, p, to, diff);
}
