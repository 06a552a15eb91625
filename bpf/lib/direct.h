/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Packets to a sandbox's own address from outside of its network: from an uplink, or from a member
 * of another network. The gateway mode of the sandbox's network decides which may begin a flow
 * (enum subnet_flag). The flow is like one to a published port, but the destination stays.
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "addr.h"
#include "drop.h"
#include "endpoint.h"
#include "flow.h"
#include "neigh.h"
#include "pkt.h"
#include "service.h"
#include "source.h"
#include "subnet.h"

/* The packet is to begin such a flow, if the mode allows it. */
#define VERDICT_DIRECT (VERDICT_NEXT + 2)

/* direct_prepare prepares in flow_scratch() the flow that packet p begins from device in_if (as in
 * struct ct_entry). Returns 0 or -DROP_X. Not inlined, because the callers' stack is full. */
static __noinline int direct_prepare(const struct pkt *p, __u32 in_if)
{
	struct service_key k = { .addr = p->t.daddr, .port = p->t.dport, .proto = p->t.proto };
	__u32 subnet = subnet_find(&p->t.daddr);
	struct service *s = NULL;
	struct neigh_entry *n;
	struct flow *f;

	if (!(subnet & SUBNET_OPEN) && p->t.proto != IPPROTO_ICMP && p->t.proto != IPPROTO_ICMPV6) {
		s = bpf_map_lookup_elem(&fl_service, &k);
		if (!s || !(s->flags & SERVICE_DIRECT))
			return -DROP_DIRECT;
		if (!source_allowed(s, &p->t.saddr))
			return -DROP_PUBLISH_FROM;
	}
	if (ip_is_linklocal6(&p->t.saddr))
		return -DROP_MARTIAN; /* the answer could not be routed (RFC 4291 section 2.5.6) */
	if (!neigh_local(&p->t.daddr, subnet & SUBNET_NET, &n) || n->flags & EP_SERVICE)
		return -DROP_NO_MEMBER;
	f = flow_prepare(p, subnet & SUBNET_NET, in_if, n->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	if (s)
		f->e.publish = s->id;
	return 0;
}
