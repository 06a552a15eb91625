/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Packets from a member of a network, or from the host, to the virtual address of a service in it.
 *
 * A backend sees the client's own address. The client may have a flow of its own to the backend
 * with the same ports, without an entry: as with the host's flows (hostflow.h), a flow through the
 * virtual address leaves with a port up to GATEWAY_PORT_MAX, and a packet of a member to a backend
 * that has such a port is looked up.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "count.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "flow.h"
#include "flow_create.h"
#include "icmp.h"
#include "icmp_send.h"
#include "maglev.h"
#include "pkt.h"
#include "service.h"
#include "tuple.h"

/* The packet is for route_vip. */
#define VERDICT_VIP (VERDICT_NEXT + 1)

/* Is the packet an echo request, or a later fragment of one? */
static __always_inline bool is_echo(const struct tuple *t)
{
	return (t->proto == IPPROTO_ICMP && t->ask == ICMP_ECHO) ||
	       (t->proto == IPPROTO_ICMPV6 && t->ask == ICMPV6_ECHO_REQUEST);
}

/* Turns echo request p into its reply and sends that back. Each fragment is turned by itself. */
static __always_inline int vip_echo(struct __sk_buff *skb, const struct pkt *p)
{
	__u8 macs[2][ETH_ALEN], type;
	__u32 at = p->flags & PKT_IP4 ? L3 + 12 : L3 + 8; /* of the addresses */
	__be32 a[2];
	int err;

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_store_bytes(skb, 0, macs[1], ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, macs[0], ETH_ALEN, 0))
		return -DROP_NAT_FAILED;
	/* Sums are of both addresses together, in any order. */
	if (p->flags & PKT_IP4) {
		a[0] = p->t.daddr.w[3];
		a[1] = p->t.saddr.w[3];
		err = bpf_skb_store_bytes(skb, at, a, sizeof(a), 0);
	} else {
		err = bpf_skb_store_bytes(skb, at, &p->t.daddr, 16, 0) ||
		      bpf_skb_store_bytes(skb, at + 16, &p->t.saddr, 16, 0);
	}
	if (err)
		return -DROP_NAT_FAILED;
	if (!(p->flags & PKT_FRAG_LATER)) {
		type = p->flags & PKT_IP4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
		if (bpf_l4_csum_replace(skb, p->l4 + 2, bpf_htons(p->t.ask << 8),
					bpf_htons(type << 8), 2) ||
		    bpf_skb_store_bytes(skb, p->l4, &type, 1, 0))
			return -DROP_NAT_FAILED;
	}
	count_path(skb, PATH_REPLY);
	return bpf_redirect(skb->ifindex, 0);
}

/* Refuses packet p to a service without a backend, as a host without the server would. */
static __always_inline int vip_refuse(struct __sk_buff *skb, const struct pkt *p)
{
	/* Port unreachable (RFC 792, RFC 4443). */
	__u32 kind = p->flags & PKT_IP4 ? ICMP_KIND(ICMP_DEST_UNREACH, 3) : ICMP_KIND(1, 4);

	return icmp_refuse(skb, p, &p->t.daddr, kind, 0, -DROP_NO_BACKEND);
}

/* Begins a flow of ep, a member or the host port, to a virtual address of its network. Any packet
 * may begin it: of a connection whose backend does not exist any more, the next backend, which
 * does not know it, resets it. */
static __noinline int route_vip(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	struct service_key vip = { .addr = p->t.daddr };
	const union ip *gw;
	struct service *s;
	struct dest d = {};
	struct backend *b;
	struct flow *f;
	int err;

	s = bpf_map_lookup_elem(&fl_service, &vip);
	b = service_backend(s, &p->t);
	if (!s || !b)
		return vip_refuse(skb, p);
	if (is_echo(&p->t))
		return vip_echo(skb, p);
	if (p->t.proto != IPPROTO_TCP && p->t.proto != IPPROTO_UDP)
		return -DROP_UNSUPPORTED;
	f = flow_prepare(p, b->net, skb->ifindex, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	flow_to_backend(f, s, b);
	f->gateway = 1;
	if (b->ifindex == skb->ifindex) {
		/* No kernel accepts packets from its own address. */
		gw = p->flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;
		if (ip_is_zero(gw))
			return -DROP_NO_UPLINK_ADDR;
		flow_from_gateway(f, gw);
	}
	err = flow_create(skb, p);
	if (!err)
		err = dest_endpoint(&d, b->ifindex, &f->e.xlat);
	return err ? err : deliver(skb, p, &d);
}
