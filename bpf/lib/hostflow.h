/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Packets that the host sends to a sandbox have a gateway's address and need no translation, so
 * they have no entry. Only if a packet's ports are those of a flow that was translated to the
 * gateway's address before, it gets an entry and leaves with another port: the older flow is never
 * changed. The same holds for packets of a member to a backend of a service, which sees members by
 * their own addresses also behind the virtual one (vip.h). So the packet embedded in an ICMP error of the host may need translation, too.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "ct.h"
#include "drop.h"
#include "flow.h"
#include "flow_create.h"
#include "icmp.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "nat.h"
#include "pkt.h"
#include "skb.h"
#include "track.h"
#include "tuple.h"

/* Can the packet have the ports of a flow translated to the gateway's address, or be an ICMP
 * error about one? Returns true when the headers at hand do not tell. */
static __always_inline bool gateway_port(struct __sk_buff *skb, __be16 eth_proto)
{
	struct ipv6hdr *ip6;
	__be16 sport, *h;
	__u32 l4;
	__u8 proto;

	if (eth_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		l4 = L3 + sizeof(*ip);
		if (!have(skb, l4 + sizeof(sport)))
			return false;
		ip = DATA(skb, L3);
		h = DATA(skb, L3 + sizeof(*ip));
		if ((void *)(h + 1) > DATA_END(skb))
			return false;
		if (ip->frag_off & bpf_htons(IP_OFFSET))
			return false; /* has no ports */
		if (ip->ihl != 5)
			return true;
		proto = ip->protocol;
	} else {
		l4 = L3 + sizeof(*ip6);
		if (!have(skb, l4 + sizeof(sport)))
			return false;
		ip6 = DATA(skb, L3);
		h = DATA(skb, L3 + sizeof(*ip6));
		if ((void *)(h + 1) > DATA_END(skb))
			return false;
		proto = ip6->nexthdr;
		if (proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_ICMPV6)
			return true;
	}
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6)
		return icmp_is_error(proto, bpf_ntohs(*h) >> 8);
	return (proto == IPPROTO_TCP || proto == IPPROTO_UDP) && bpf_ntohs(*h) <= GATEWAY_PORT_MAX;
}

/* Would replies to the flow that the packet begins match another flow? */
static __always_inline bool host_collides(const struct pkt *p)
{
	struct tuple answer;
	bool confirmed;

	if (p->t.proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	tuple_reverse(&answer, &p->t);
	return ct_find(&answer, &confirmed);
}

/* Translates ICMP error p of the host about a packet that the host received with another port
 * than the sandbox sent. */
static __noinline int host_error_to_member(struct __sk_buff *skb, struct pkt *p)
{
	struct icmp_work *w = icmp_scratch();
	struct ct_entry *e;
	int err;

	if (!w || icmp_related(skb, p, skb->ifindex, skb->ifindex, w, &e) || !e)
		return VERDICT_NEXT;
	err = nat_rewrite(skb, p, &w->to);
	return err ? err : VERDICT_NEXT;
}

/* host_to_member handles a packet from the host port of network net, or from a member of it (not
 * host), to the sandbox of endpoint ifindex, before it is delivered. Global, so that it is verified
 * once. */
__noinline int host_to_member(struct __sk_buff *skb, __be16 eth_proto, __u32 net, __u32 ifindex,
			      bool host)
{
	struct ct_entry *e;
	bool confirmed;
	struct tuple to;
	struct flow *f;
	struct pkt p;
	int err;

	if (parse(skb, &p, eth_proto))
		return VERDICT_NEXT;
	if (p.flags & PKT_ICMP_ERROR)
		return host_error_to_member(skb, &p);
	if (p.t.proto != IPPROTO_TCP && p.t.proto != IPPROTO_UDP)
		return VERDICT_NEXT;
	e = ct_find(&p.t, &confirmed);
	if (e && e->in_if == skb->ifindex) {
		to = e->xlat;
		err = ct_hit(&p, e, confirmed);
	} else {
		if (!host_collides(&p))
			return VERDICT_NEXT;
		f = flow_prepare(&p, net, skb->ifindex, ifindex);
		if (!f)
			return -DROP_CT_FULL;
		if (host) {
			f->e.flags = CT_F_HOST;
			flow_from_gateway(f, &p.t.saddr);
		}
		f->gateway = 1;
		err = flow_create(skb, &p);
		to = f->e.xlat;
	}
	if (err)
		return err;
	err = nat_rewrite(skb, &p, &to);
	return err ? err : VERDICT_NEXT;
}
