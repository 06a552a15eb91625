/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* ICMP errors that a gateway sends to an endpoint. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "count.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "icmp.h"
#include "icmp_send.h"
#include "pkt.h"
#include "xlat_len.h"

/* Sends an ICMP error from the gateway to the sender in ep's network. */
static __always_inline int send_icmp_error(struct __sk_buff *skb, const struct pkt *p,
					   const struct endpoint *ep, __u32 kind, __u32 mtu,
					   int refusal)
{
	const union ip *src = p->flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;

	return icmp_refuse(skb, p, src, kind, mtu, refusal);
}

static __always_inline int ttl_exceeded(struct __sk_buff *skb, const struct pkt *p,
					const struct endpoint *ep)
{
	return send_icmp_error(skb, p, ep, icmp_time_exceeded(p), 0, -DROP_TTL);
}

/* Handles packet p that is larger than the MTU of the route to *daddr. Returns 0 if it goes to
 * *d. */
static __always_inline int too_big(struct __sk_buff *skb, const struct pkt *p,
				   const struct endpoint *ep, const union ip *daddr, __u32 mtu,
				   struct dest *d)
{
	mtu -= xlat_len(p, daddr) - p->len; /* as the sender counts it */
	if (!(p->flags & PKT_IP4))
		return send_icmp_error(skb, p, ep, ICMP_KIND(ICMPV6_PKT_TOOBIG, 0), mtu,
				       -DROP_TOO_BIG);
	/* The stack fragments packets without DF, unless they become IPv6. */
	if (!(p->flags & PKT_DF) && ip_is4(daddr))
		return dest_host(d, ep, PATH_STACK);
	return send_icmp_error(skb, p, ep, ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED), mtu,
			       -DROP_TOO_BIG);
}
