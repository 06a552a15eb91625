/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* IPv6 neighbour discovery (RFC 4861), answered in the program like ARP. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "count.h"
#include "csum.h"
#include "drop.h"
#include "endpoint.h"
#include "neigh.h"
#include "parse.h"
#include "pkt.h"
#include "skb.h"

#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_SOLICIT 135
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137
#define ND_OPT_TARGET_LLADDR 2

/* A neighbour advertisement with its only option, and the headers around it. */
struct na_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 flags;
	__u8 target[16];
	__u8 opt_type;
	__u8 opt_len; /* units of 8 bytes */
	__u8 opt_mac[6];
} __attribute__((packed));
_Static_assert(sizeof(struct na_frame) == 86, "struct na_frame");

#define NA_ROUTER 0x80000000u
#define NA_SOLICITED 0x40000000u
#define NA_OVERRIDE 0x20000000u

static __always_inline int nd_answer(struct __sk_buff *skb, const struct pkt *p,
				     const struct endpoint *ep, const union ip *target,
				     const struct neigh_entry *n)
{
	struct {
		union ip s, d;
		__be32 len;
		__be32 next;
	} pseudo = { *target, p->t.saddr, bpf_htonl(32), bpf_htonl(IPPROTO_ICMPV6) };
	struct na_frame a = {};
	__u32 sum;

	__builtin_memcpy(a.eth.h_dest, ep->mac, 6);
	__builtin_memcpy(a.eth.h_source, n->mac, 6);
	a.eth.h_proto = bpf_htons(ETH_P_IPV6);
	a.ip.version = 6;
	a.ip.payload_len = bpf_htons(32);
	a.ip.nexthdr = IPPROTO_ICMPV6;
	a.ip.hop_limit = 255; /* RFC 4861 section 7.1.2 */
	__builtin_memcpy(&a.ip.saddr, target, 16);
	__builtin_memcpy(&a.ip.daddr, &p->t.saddr, 16);
	a.type = ND_NEIGHBOUR_ADVERT;
	a.flags = bpf_htonl(NA_SOLICITED | NA_OVERRIDE | (n->flags & EP_HOSTPORT ? NA_ROUTER : 0));
	__builtin_memcpy(a.target, target, 16);
	a.opt_type = ND_OPT_TARGET_LLADDR;
	a.opt_len = 1;
	__builtin_memcpy(a.opt_mac, n->mac, 6);

	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	{
		/* The frame's layer 4 is not aligned for csum_diff on the stack. */
		__u8 l4[32];

		__builtin_memcpy(l4, &a.type, 32);
		sum = bpf_csum_diff(0, 0, (__be32 *)l4, 32, sum);
	}
	a.check = ~csum_fold(sum);
	if (bpf_skb_change_tail(skb, sizeof(a), 0) ||
	    bpf_skb_store_bytes(skb, 0, &a, sizeof(a), BPF_F_INVALIDATE_HASH))
		return -DROP_NAT_FAILED;
	count_path(skb, PATH_REPLY);
	return bpf_redirect(skb->ifindex, 0);
}

/* Handles link-local ICMPv6 from endpoint ep. VERDICT_NEXT: forward it like any other frame. */
static __always_inline int nd_input(struct __sk_buff *skb, const struct pkt *p,
				    const struct endpoint *ep)
{
	bool checked = ep->flags & EP_ANTISPOOF && !(ep->flags & EP_HOSTPORT);
	struct neigh_entry *n;
	union ip target;

	if (checked && (p->icmp_type == ND_ROUTER_ADVERT || p->icmp_type == ND_REDIRECT))
		return -DROP_ROGUE_RA;
	if (p->icmp_type != ND_NEIGHBOUR_SOLICIT && p->icmp_type != ND_NEIGHBOUR_ADVERT)
		return VERDICT_NEXT;
	if (p->ttl != 255 || bpf_skb_load_bytes(skb, p->l4 + 8, &target, 16))
		return -DROP_MALFORMED;
	if (p->icmp_type == ND_NEIGHBOUR_ADVERT) {
		if (checked && !ip_equal(&target, &ep->ip6) && !ip_is_eui64(&target, ep->mac))
			return -DROP_SPOOFED_IP;
		return VERDICT_NEXT;
	}
	/* Duplicate address detection has no source: the owner of the address replies itself. */
	if (ip_is_zero(&p->t.saddr))
		return VERDICT_NEXT;
	if (neigh_find(&target, ep->net, &n))
		return nd_answer(skb, p, ep, &target, n);
	return (ep->flags & (EP_ANTISPOOF | EP_LAN)) == EP_ANTISPOOF ? -DROP_ARP_UNKNOWN :
								       VERDICT_NEXT;
}

/* nd_from_endpoint handles an IPv6 frame if it is link-local ICMPv6, whatever its destination
 * and extension headers (RFC 7113). VERDICT_NEXT: it is not, or it is to be forwarded like any
 * other frame. */
__noinline int nd_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct pkt p;
	__u8 next;
	int err;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	if (bpf_skb_load_bytes(skb, L3 + 6, &next, 1))
		return -DROP_MALFORMED;
	if (next != IPPROTO_ICMPV6 && !is_exthdr(next))
		return VERDICT_NEXT;
	err = parse(skb, &p, bpf_htons(ETH_P_IPV6));
	/* A later fragment cannot be neighbour discovery: the first would have been recognised,
	 * or was too short to pass. */
	if (err == -DROP_FRAG_UNKNOWN)
		return VERDICT_NEXT;
	if (err)
		return err;
	return p.flags & PKT_ICMP_LOCAL ? nd_input(skb, &p, ep) : VERDICT_NEXT;
}
