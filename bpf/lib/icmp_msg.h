/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* An ICMP error under construction. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "csum.h"
#include "pkt.h"
#include "tuple.h"

/* Bytes of the offending packet that our own errors quote: the IP header, options or extension
 * headers, and more than the 8 bytes that RFC 792 requires. */
#define ICMP_QUOTE 96

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
