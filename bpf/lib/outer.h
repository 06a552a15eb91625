/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The headers of a datagram from another node, outside of the frame that it carries. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "config.h"
#include "drop.h"
#include "pkt.h"
#include "skb.h"
#include "vxlan.h"

/* What the outer IP header says. */
struct outer {
	union ip src;
	union ip dst;
	__u8 ecn;
};

/* Where layer 4 of a datagram to the tunnels' port begins, if its IP header is a plain one and it
 * is whole; else 0. */
static __always_inline __u32 tunnel_l4(struct __sk_buff *skb)
{
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	struct iphdr *ip;
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		l4 = L3 + sizeof(*ip);
		if (!have(skb, L3 + sizeof(*ip) + sizeof(*udp)))
			return 0;
		ip = DATA(skb, L3);
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip->ihl != 5 ||
		    ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_MF | IP_OFFSET))
			return 0;
	} else {
		l4 = L3 + sizeof(*ip6);
		if (!have(skb, L3 + sizeof(*ip6) + sizeof(*udp)))
			return 0;
		ip6 = DATA(skb, L3);
		udp = (void *)(ip6 + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip6->nexthdr != IPPROTO_UDP)
			return 0;
	}
	return udp->dest == bpf_htons(cfg_vxlan_port) ? l4 : 0;
}

static __always_inline bool outer_read(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!have(skb, L3 + sizeof(*ip)))
			return false;
		ip = DATA(skb, L3);
		if ((void *)(ip + 1) > DATA_END(skb))
			return false;
		ip_set4(&o->src, ip->saddr);
		ip_set4(&o->dst, ip->daddr);
		o->ecn = ip->tos & 3;
		return true;
	}
	if (!have(skb, L3 + sizeof(*ip6)))
		return false;
	ip6 = DATA(skb, L3);
	if ((void *)(ip6 + 1) > DATA_END(skb))
		return false;
	ip_set6(&o->src, &ip6->saddr);
	ip_set6(&o->dst, &ip6->daddr);
	o->ecn = ecn_of(*(__be16 *)ip6, false);
	return true;
}

/* Reads the headers from layer 4 on, which is at l4. */
static __always_inline bool frame_read(struct __sk_buff *skb, __u32 l4, struct vxlan_frame *f)
{
	return !bpf_skb_load_bytes(skb, l4, f, VXLAN_FRAME_LEN) &&
	       f->vxlan.flags == bpf_htonl(VXLAN_VALID);
}

/* The ECN of the frame inside, which arrived as *ecn, after decapsulation: RFC 6040 section 4.2, as
 * the kernel (INET_ECN_decapsulate). Returns 0 or a refusal. */
static __always_inline int ecn_combine(__u8 outer, __u8 *ecn)
{
	if (outer == ECN_CE && *ecn == ECN_NONE)
		return -DROP_TUNNEL_ECN;
	if (*ecn != ECN_NONE && outer == ECN_CE)
		*ecn = ECN_CE;
	else if (*ecn == ECN_ECT0 && outer == ECN_ECT1)
		*ecn = ECN_ECT1;
	return 0;
}
