/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Packets of flows whose other end is on another node. They are translated here and leave like a
 * frame of this host's member, so the other node sees a packet between members.
 *
 * That a destination is there turns out at the end of a chain of calls that leaves no stack.
 * dest_via notes it and returns VERDICT_NODE; the program itself then calls via_send.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "addr.h"
#include "config.h"
#include "deliver.h"
#include "drop.h"
#include "endpoint.h"
#include "flow.h"
#include "icmp.h"
#include "icmp_send.h"
#include "nat.h"
#include "neigh.h"
#include "node.h"
#include "pkt.h"
#include "skb.h"
#include "tunnel.h"
#include "uplink.h"
#include "vni.h"
#include "xlat_len.h"

/* Refuses packet p, which is too big for a tunnel as it is after translation. ep: where it comes
 * from; NULL: from outside. */
static __always_inline int via_too_big(struct __sk_buff *skb, const struct pkt *p,
				       const struct endpoint *ep, __u32 mtu)
{
	const union ip *src = &p->t.daddr; /* the host would accept no error from its own address */
	struct uplink *up = ep ? NULL : uplink_find(skb->ifindex);
	__u32 kind = ICMP_KIND(ICMPV6_PKT_TOOBIG, 0);
	int verdict;

	if (p->flags & PKT_IP4)
		kind = ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED);
	if (!ep && !icmp_may_send())
		return -DROP_TOO_BIG;
	if (ep && !(ep->flags & EP_HOSTPORT))
		src = p->flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;
	verdict = icmp_refuse(skb, p, src, kind, mtu, -DROP_TOO_BIG);
	if (up && verdict != -DROP_TOO_BIG)
		skb->mark = cfg_mark + up->flags / UP_BELOW; /* as uplink_error */
	return verdict;
}

/* via_translate makes the packet the one that the other node is to receive. It is addressed to the
 * member that it is translated to; one for a node itself has the gateway's MAC, and keeps it. Returns
 * 0 or a verdict. Global, so that it is verified once. */
__noinline int via_translate(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct flow *f = flow_scratch();
	struct neigh_entry *m = NULL;
	struct tunnel *t;
	struct node *n;
	struct pkt p;
	union ip to;
	__u32 mtu, grows, id;
	int err;

	if (!f)
		return -DROP_NAT_FAILED;
	id = VIA_ID(f->via);
	if (!id) {
		to = f->onward.daddr;
		m = neigh_remote(&to, VIA_NET(f->via));
		if (!m)
			return -DROP_NO_MEMBER;
		id = m->node;
		f->via = VIA(VIA_NET(f->via), id);
	}
	t = tunnel_of(VIA_NET(f->via));
	n = node_find(id);
	if (!t || !n)
		return -DROP_NO_NODE;
	err = parse(skb, &p, skb->protocol);
	if (err)
		return err;
	mtu = tunnel_mtu(t, n, id);
	grows = xlat_len(&p, &f->onward.daddr) - p.len;
	if (mtu && p.len + grows > mtu)
		return via_too_big(skb, &p, ep, mtu - grows);
	err = nat_rewrite(skb, &p, &f->onward);
	if (!err)
		err = decrement_ttl(skb, &p);
	if (!err && m && bpf_skb_store_bytes(skb, 0, m->mac, ETH_ALEN, 0))
		err = -DROP_NAT_FAILED;
	return err;
}

/* Sends the packet to the node that dest_via noted. ep: where it comes from; NULL: from outside. */
static __always_inline int via_send(struct __sk_buff *skb, const struct endpoint *ep)
{
	int err = via_translate(skb, ep);
	struct flow *f = flow_scratch();
	struct tunnel *t;

	if (err || !f)
		return err;
	/* A sender outside of the network appears as this host, as other nodes know it. */
	if (!ep || ep->net != VIA_NET(f->via)) {
		t = tunnel_of(VIA_NET(f->via));
		ep = t ? endpoint_find(t->hostport_if) : NULL;
	}
	return tunnel_send(skb, ep, VIA_ID(f->via), TUNNEL_PACKET);
}
