/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Rewriting packets to a translated tuple. */

#include "config.h"
#include "pkt.h"

#ifndef BPF_F_IPV6
#define BPF_F_IPV6 (1ULL << 7) /* kernel commit ead7f9b8de65 */
#endif

#define CSUM_NONE (-1)

/* Offset of the layer 4 checksum in its header, or CSUM_NONE. */
static __always_inline int csum_offset(__u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return 2;
	}
	return CSUM_NONE;
}

static __always_inline __u64 csum_flags(const struct pkt *p)
{
	__u64 flags = p->t.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	/* Without it a CHECKSUM_COMPLETE sum goes wrong: IPv6 has no header sum to
	 * balance the address. */
	if (cfg_csum_ipv6 && !(p->flags & PKT_IP4))
		flags |= BPF_F_IPV6;
	return flags;
}

/* Ports, or the ICMP echo id; the later fragments have none. */
static __always_inline int nat_ports(struct __sk_buff *skb, const struct pkt *p,
				     const struct tuple *to)
{
	__be16 ports[2] = { to->sport, to->dport };
	__be16 old[2] = { p->t.sport, p->t.dport };
	int csum = csum_offset(p->t.proto);
	__s64 diff;

	if (p->t.sport == to->sport && p->t.dport == to->dport)
		return 0;
	if (p->flags & PKT_FRAG_LATER)
		return 0;
	if (csum == CSUM_NONE)
		return -DROP_UNSUPPORTED; /* SCTP's CRC32c, RFC 9260 section 6.8 */
	diff = bpf_csum_diff((__be32 *)old, 4, (__be32 *)ports, 4, 0);
	if (bpf_l4_csum_replace(skb, p->l4 + csum, 0, diff,
				p->t.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0))
		return -DROP_NAT_FAILED;
	if (p->t.proto == IPPROTO_ICMP || p->t.proto == IPPROTO_ICMPV6) {
		__be16 id = p->t.sport ? to->sport : to->dport;

		if (bpf_skb_store_bytes(skb, p->l4 + 4, &id, 2, 0))
			return -DROP_NAT_FAILED;
		return 0;
	}
	if (bpf_skb_store_bytes(skb, p->l4, ports, sizeof(ports), 0))
		return -DROP_NAT_FAILED;
	return 0;
}

static __always_inline int nat_addrs(struct __sk_buff *skb, const struct pkt *p,
				     const struct tuple *to)
{
	int csum = csum_offset(p->t.proto);
	bool balanced;
	__s64 diff;

	if (ip_equal(&p->t.saddr, &to->saddr) && ip_equal(&p->t.daddr, &to->daddr))
		return 0;
	/* saddr and daddr are neighbours in the tuple; the mapped form's constant
	 * bytes cancel out. */
	diff = bpf_csum_diff((__be32 *)&p->t.saddr, 32, (__be32 *)&to->saddr, 32, 0);
	/* ICMPv4 has no pseudo-header. */
	balanced = csum != CSUM_NONE && p->t.proto != IPPROTO_ICMP && !(p->flags & PKT_FRAG_LATER);
	if (balanced &&
	    bpf_l4_csum_replace(skb, p->l4 + csum, 0, diff, BPF_F_PSEUDO_HDR | csum_flags(p)))
		return -DROP_NAT_FAILED;
	if (p->flags & PKT_IP4) {
		__be32 a[2] = { to->saddr.w[3], to->daddr.w[3] };

		if (bpf_l3_csum_replace(skb, L3 + 10, 0, diff, 0) ||
		    bpf_skb_store_bytes(skb, L3 + 12, a, sizeof(a), 0))
			return -DROP_NAT_FAILED;
		return 0;
	}
	/* Where no layer 4 sum balances the addresses, the packet's own must follow. */
	if (bpf_skb_store_bytes(skb, L3 + 8, &to->saddr, 32, balanced ? 0 : BPF_F_RECOMPUTE_CSUM))
		return -DROP_NAT_FAILED;
	return 0;
}

/* nat_rewrite gives the packet the addresses and ports of *to. Pointers into
 * the packet are void afterwards; p still has the old tuple. */
__noinline int nat_rewrite(struct __sk_buff *skb, const struct pkt *p, const struct tuple *to)
{
	int err;

	if (!p || !to)
		return -DROP_NAT_FAILED;
	err = nat_ports(skb, p, to);
	return err ? err : nat_addrs(skb, p, to);
}
