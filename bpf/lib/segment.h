/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What a segment of TCP says, as cached decisions read it: without parsing the packet. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "pkt.h"
#include "skb.h"

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

/* What a segment of TCP says, HBO. */
struct segment {
	__u32 seq;
	__u32 seq_end; /* after the last byte; FIN counts as one */
	__u32 ack;
	__u16 win;
	__u8 flags; /* byte 13 of the header */
	__u8 pkt_flags;
};

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
