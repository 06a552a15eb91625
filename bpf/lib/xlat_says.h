/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The meaning of ICMP errors in the other family: type, code and the word behind the checksum (RFC
 * 7915 sections 4.2, 4.3, 5.2 and 5.3).
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "icmp.h"
#include "xlat_len.h"

#define IPV6_MIN_MTU 1280

#define ICMP_PROT_UNREACH 2 /* codes of ICMP_DEST_UNREACH */
#define ICMP_PORT_UNREACH 3
#define ICMP_HOST_UNREACH 1
#define ICMP_NET_ANO 9
#define ICMP_HOST_ANO 10
#define ICMP_PKT_FILTERED 13
#define ICMP_PREC_VIOLATION 14
#define ICMP_PREC_CUTOFF 15

#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_NOROUTE 0 /* its codes */
#define ICMPV6_ADM_PROHIBITED 1
#define ICMPV6_PORT_UNREACH 4
#define ICMPV6_PARAMPROB 4
#define ICMPV6_HDR_FIELD 0 /* its codes */
#define ICMPV6_UNK_NEXTHDR 1

#define XLAT_NO_ICMP 0xffff /* not an ICMP_KIND: the other family has no such error */

/* The meaning of an error: type and code as ICMP_KIND, and the word behind the checksum, HBO. */
struct xlat_says {
	__u32 kind;
	__u32 rest;
};

/* The offset in an IPv4 header of the field at this offset of an IPv6 header (figure 6). */
static __always_inline __u32 xlat_pointer4(__u32 at)
{
	if (at < 2)
		return at;
	switch (at) {
	case 4 ... 5:
		return 2; /* length */
	case 6:
		return 9; /* protocol */
	case 7:
		return 8; /* TTL */
	case 8 ... 23:
		return 12; /* source */
	case 24 ... 39:
		return 16; /* destination */
	}
	return XLAT_NO_ICMP;
}

/* The reverse (figure 3). */
static __always_inline __u32 xlat_pointer6(__u32 at)
{
	if (at < 2)
		return at;
	switch (at) {
	case 2 ... 3:
		return 4;
	case 8:
		return 7;
	case 9:
		return 6;
	case 12 ... 15:
		return 8;
	case 16 ... 19:
		return 24;
	}
	return XLAT_NO_ICMP;
}

/* Translates the meaning of an ICMPv6 error. */
static __always_inline void xlat_says4(struct xlat_says *s)
{
	__u8 type = s->kind >> 8, code = s->kind;
	__u32 rest = s->rest;

	s->kind = XLAT_NO_ICMP;
	s->rest = 0;
	switch (type) {
	case ICMPV6_DEST_UNREACH:
		if (code == ICMPV6_PORT_UNREACH)
			s->kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_PORT_UNREACH);
		else if (code == ICMPV6_ADM_PROHIBITED)
			s->kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_HOST_ANO);
		else if (code < ICMPV6_PORT_UNREACH)
			s->kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_HOST_UNREACH);
		return;
	case ICMPV6_PKT_TOOBIG:
		s->kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED);
		s->rest = rest < IPV6_MIN_MTU ? IPV6_MIN_MTU - XLAT_DIFF : rest - XLAT_DIFF;
		if (s->rest > 0xffff)
			s->rest = 0xffff;
		return;
	case ICMPV6_TIME_EXCEED:
		s->kind = ICMP_KIND(ICMP_TIME_EXCEEDED, code);
		return;
	case ICMPV6_PARAMPROB:
		if (code == ICMPV6_UNK_NEXTHDR)
			s->kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_PROT_UNREACH);
		rest = xlat_pointer4(rest);
		if (code != ICMPV6_HDR_FIELD || rest == XLAT_NO_ICMP)
			return;
		s->kind = ICMP_KIND(ICMP_PARAMETERPROB, 0);
		s->rest = rest << 24;
	}
}

/* Translates IPv4's "destination unreachable". rest: the MTU, for "fragmentation needed". */
static __always_inline void xlat_unreachable6(struct xlat_says *s, __u8 code, __u32 rest)
{
	switch (code) {
	case ICMP_PROT_UNREACH:
		s->kind = ICMP_KIND(ICMPV6_PARAMPROB, ICMPV6_UNK_NEXTHDR);
		s->rest = 6; /* its offset in the IPv6 header */
		return;
	case ICMP_PORT_UNREACH:
		s->kind = ICMP_KIND(ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH);
		return;
	case ICMP_FRAG_NEEDED:
		s->kind = ICMP_KIND(ICMPV6_PKT_TOOBIG, 0);
		s->rest = (rest & 0xffff) + XLAT_DIFF;
		if (s->rest < IPV6_MIN_MTU)
			s->rest = IPV6_MIN_MTU;
		return;
	case ICMP_NET_ANO:
	case ICMP_HOST_ANO:
	case ICMP_PKT_FILTERED:
	case ICMP_PREC_CUTOFF:
		s->kind = ICMP_KIND(ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED);
		return;
	}
	if (code < ICMP_PREC_VIOLATION)
		s->kind = ICMP_KIND(ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE);
}

/* Translates the meaning of an ICMPv4 error. */
static __always_inline void xlat_says6(struct xlat_says *s)
{
	__u8 type = s->kind >> 8, code = s->kind;
	__u32 rest = s->rest;

	s->kind = XLAT_NO_ICMP;
	s->rest = 0;
	switch (type) {
	case ICMP_DEST_UNREACH:
		xlat_unreachable6(s, code, rest);
		return;
	case ICMP_TIME_EXCEEDED:
		s->kind = ICMP_KIND(ICMPV6_TIME_EXCEED, code);
		return;
	case ICMP_PARAMETERPROB:
		rest = xlat_pointer6(rest >> 24);
		if ((code != 0 && code != 2) || rest == XLAT_NO_ICMP)
			return;
		s->kind = ICMP_KIND(ICMPV6_PARAMPROB, ICMPV6_HDR_FIELD);
		s->rest = rest;
	}
}
