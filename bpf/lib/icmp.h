/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* ICMP messages: their types, and which fields identify the flow. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "pkt.h"
#include "tuple.h"

/* <linux/icmp.h> includes the C library. RFC 792, RFC 4443. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4 /* code */
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_TIMESTAMP 13
#define ICMP_TIMESTAMPREPLY 14
#define ICMP_INFO_REQUEST 15
#define ICMP_INFO_REPLY 16
#define ICMP_ADDRESS 17
#define ICMP_ADDRESSREPLY 18
#define ICMP_EXT_ECHO 42 /* RFC 8335 */
#define ICMP_EXT_ECHOREPLY 43
#define ICMPV6_PKT_TOOBIG 2
#define ICMPV6_TIME_EXCEED 3
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_NI_QUERY 139 /* RFC 4620 */
#define ICMPV6_NI_REPLY 140
#define ICMPV6_DHAAD_REQUEST 144 /* of mobile hosts, RFC 6275 */
#define ICMPV6_DHAAD_REPLY 145
#define ICMPV6_MOBILE_PREFIX_SOL 146
#define ICMPV6_MOBILE_PREFIX_ADV 147
#define ICMPV6_EXT_ECHO_REQUEST 160 /* RFC 8335 */
#define ICMPV6_EXT_ECHO_REPLY 161

/* An ICMP message's type and code in one argument. */
#define ICMP_KIND(type, code) ((type) << 8 | (code))

/* Does the message embed the packet that it is about? */
static __always_inline bool icmp_is_error(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMPV6)
		return type < 128;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT;
}

/* A redirect names routers on the link, which a host behind a translation cannot reach. */
static __always_inline bool icmp_redirects(const struct pkt *p)
{
	return p->flags & PKT_IP4 && p->icmp_type == ICMP_REDIRECT;
}

/* The type of the requests that ICMP of this type answers; 0 if it is not a reply. */
static __always_inline __u8 icmp_question(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP) {
		switch (type) {
		case ICMP_ECHOREPLY:
			return ICMP_ECHO;
		case ICMP_TIMESTAMPREPLY:
		case ICMP_INFO_REPLY:
		case ICMP_ADDRESSREPLY:
		case ICMP_EXT_ECHOREPLY:
			return type - 1;
		}
		return 0;
	}
	switch (type) {
	case ICMPV6_ECHO_REPLY:
	case ICMPV6_NI_REPLY:
	case ICMPV6_DHAAD_REPLY:
	case ICMPV6_MOBILE_PREFIX_ADV:
	case ICMPV6_EXT_ECHO_REPLY:
		return type - 1;
	}
	return 0;
}

/* Do requests of this type have an id, which the reply repeats? All have it in the same place
 * (RFC 792, RFC 950, and those above). */
static __always_inline bool icmp_has_id(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == ICMP_ECHO || type == ICMP_TIMESTAMP || type == ICMP_INFO_REQUEST ||
		       type == ICMP_ADDRESS || type == ICMP_EXT_ECHO;
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_DHAAD_REQUEST ||
	       type == ICMPV6_MOBILE_PREFIX_SOL || type == ICMPV6_EXT_ECHO_REQUEST;
}

/* Fills the fields that distinguish ICMP flows; id: the 16 bits where an id would be. */
static __noinline void icmp_tuple(struct tuple *t, __u8 type, __be16 id)
{
	t->answer = icmp_question(t->proto, type);
	if (!t->answer)
		t->ask = type;
	if (!icmp_has_id(t->proto, t->ask | t->answer))
		return;
	if (t->answer)
		t->dport = id;
	else
		t->sport = id;
}

/* Messages whose receiver is on the same link by definition: multicast listener discovery (RFC
 * 2710, RFC 3810), neighbour discovery (RFC 4861), inverse neighbour discovery (RFC 3122),
 * certification paths (RFC 3971), multicast router discovery (RFC 4286). All others are routed. */
static __always_inline bool icmp6_is_local(__u8 type)
{
	return (type >= 130 && type <= 137) || (type >= 141 && type <= 143) || type == 148 ||
	       type == 149 || (type >= 151 && type <= 153);
}
