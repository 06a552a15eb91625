/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* A parsed packet (parse.h fills it). */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "tuple.h"

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

/* Devices without an Ethernet header are not supported: the IP header is always here. */
#define L3 ETH_HLEN

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define TCP_NO_SCALE 0x80 /* of a SYN without the option */

enum pkt_flag {
	PKT_FRAG_FIRST = 1 << 0, /* first of several fragments */
	PKT_FRAG_LATER = 1 << 1, /* a later one, without a layer 4 header */
	PKT_ICMP_ERROR = 1 << 2, /* embeds the packet it is about */
	PKT_IP4 = 1 << 3,
	PKT_DF = 1 << 4,	 /* must not be fragmented on the way */
	PKT_ICMP_LOCAL = 1 << 5, /* link-local ICMPv6 (icmp6_is_local), never routed */
	PKT_STEADY = 1 << 6,	 /* of a known flow, which it does not change (ct_hit) */
};

/* Kept small, because it is on the stack of the deepest chain of calls. */
struct pkt {
	struct tuple t;
	__u32 len; /* of one IP packet, in bytes; of one segment if GSO */
	__u16 l4;  /* offset of the layer 4 header */
	union {
		__u16 win;	 /* TCP: as the header has it, HBO */
		__u8 frag_proto; /* of fragments: as in struct frag_key */
	};
	__u8 flags; /* enum pkt_flag */
	__u8 ttl;
	__u8 tcp_flags; /* byte 13 of the TCP header */
	union {
		__u8 icmp_type;
		__u8 scale; /* SYN: shift of the sender's windows, or TCP_NO_SCALE */
	};
	/* TCP, HBO; fragments have none: */
	__u32 seq;
	__u32 seq_end; /* after the last byte; SYN and FIN count as one */
	union {
		__u32 ack;
		__u32 frag_id; /* of fragments, NBO */
	};
};
_Static_assert(sizeof(struct pkt) == 64, "struct pkt");

static __always_inline bool is_ip(__be16 eth_proto)
{
	return eth_proto == bpf_htons(ETH_P_IP) || eth_proto == bpf_htons(ETH_P_IPV6);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static __always_inline bool pkt_is_fragment(const struct pkt *p)
{
	return p->flags & (PKT_FRAG_FIRST | PKT_FRAG_LATER);
}
