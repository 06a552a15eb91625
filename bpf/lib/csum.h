/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Checksums: one's complement sums (RFC 1071), and where layer 4 has them. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "pkt.h"
#include "tuple.h"

#define CSUM_NONE (-1)

/* Folds a sum of words of any size into 16 bits. */
static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + ((sum >> 32) & 0xffff) + (sum >> 48);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

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

/* A UDP checksum of 0 means that there is none; it stays 0 (RFC 768). */
static __always_inline __u64 csum_flags(__u8 proto)
{
	return proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* The change of a one's complement sum when words of *from become those of *to: bpf_csum_diff()
 * without its call. In mapped addresses only the last word can differ. */
static __always_inline __u64 addr_diff(const union ip *from, const union ip *to, bool is4)
{
	__u64 sum = 0;

	for (int i = is4 ? 3 : 0; i < 4; i++)
		sum += (__u64)to->w[i] + (__u32)~from->w[i];
	return sum;
}

/* The change of a sum when the ports of p become those of *to. */
static __always_inline __u32 port_diff(const struct pkt *p, const struct tuple *to)
{
	return (__u32)to->sport + (__u16)~p->t.sport + to->dport + (__u16)~p->t.dport;
}
