/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Packets from other nodes in networks with services, whose outer headers were removed. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "arrival.h"
#include "count.h"
#include "ct.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "fib.h"
#include "flow.h"
#include "flow_create.h"
#include "frag.h"
#include "icmp_error.h"
#include "icmp_msg.h"
#include "node.h"
#include "pkt.h"
#include "skb.h"
#include "subnet.h"
#include "track.h"
#include "tuple.h"
#include "vni.h"
#include "xlat_len.h"

/*
 * In networks with services, packets from other nodes are looked up. A member's may be the answer of
 * a backend to a client that came to the service here: it is translated, and leaves for the client,
 * which may be outside. A node's own may be those of a client outside that came to a published port
 * there: the answers leave through that node.
 *
 * Each step is a function that the program calls itself, because nested they would need too much
 * stack. Between two of them, struct flow has what is known.
 */
enum inner_step {
	INNER_BRIDGE = VERDICT_NEXT, /* as it is, to the member that its MAC names */
	INNER_BEGIN = 0x200,	     /* from outside: its answers are to leave through the node */
	INNER_ERROR,		     /* an ICMP error */
	INNER_FLOW, /* of a flow: f->onward is what it becomes, and f->via its device */
};

/* Parses the packet behind the outer headers that were removed. Fragments that come before their
 * first are not held: the device would receive them without their outer headers. */
static __always_inline int inner_parse(struct __sk_buff *skb, struct pkt *p)
{
	__be16 proto;

	if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &proto, sizeof(proto)))
		return -DROP_TUNNEL_FAILED;
	return parse(skb, p, proto);
}

/* Not inlined, to save stack. */
static __noinline void inner_remember(const struct pkt *p)
{
	frag_remember(p);
}

/* inner_lookup finds the packet's flow. Returns an inner_step or a refusal. */
__noinline int inner_lookup(struct __sk_buff *skb)
{
	__u32 from = skb->cb[0], net = VIA_NET(from);
	struct flow *f = flow_scratch();
	struct ct_entry *e;
	bool confirmed;
	struct pkt p;
	int err;

	if (inner_parse(skb, &p) || !f || p.flags & PKT_ICMP_LOCAL)
		return INNER_BRIDGE;
	inner_remember(&p);
	if (p.flags & PKT_ICMP_ERROR)
		return INNER_ERROR;
	e = ct_find(&p.t, &confirmed);
	if (e && e->in_if == VIA(net, 0)) {
		f->onward = e->xlat;
		f->via = e->out_if;
		err = ct_hit(&p, e, confirmed);
		return err ? err : INNER_FLOW;
	}
	if (!(from & FROM_HOST))
		return INNER_BRIDGE;
	if (e && e->in_if == (from & ~FROM_HOST)) {
		f->onward = e->xlat;
		f->via = e->out_if;
		err = ct_hit(&p, e, confirmed);
		if (err)
			return err;
		return tuple_equal(&f->onward, &p.t) ? INNER_BRIDGE : INNER_FLOW;
	}
	return subnet_of(&p.t.saddr) == net ? INNER_BRIDGE : INNER_BEGIN;
}

/* inner_begin makes the flow of a packet from outside that came to another node. If the client came
 * to the backend by this node with the same port, the flow gets another one. If it came by a
 * different node, the latest one counts. */
__noinline int inner_begin(struct __sk_buff *skb)
{
	__u32 via = skb->cb[0] & ~FROM_HOST;
	struct fdb_entry *member;
	struct ct_entry *e;
	bool confirmed;
	__u8 dmac[ETH_ALEN];
	struct flow *f;
	struct pkt p;
	int err;

	if (inner_parse(skb, &p) || bpf_skb_load_bytes(skb, 0, dmac, sizeof(dmac)))
		return INNER_BRIDGE;
	member = fdb_local(VIA_NET(via), dmac);
	if (!member || member->flags & (EP_HOSTPORT | EP_SERVICE))
		return INNER_BRIDGE;
	e = ct_find(&p.t, &confirmed);
	if (e)
		flow_forget(&p.t, &e->xlat, false);
	f = flow_prepare(&p, VIA_NET(via), via, member->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_create(skb, &p);
	if (err)
		return err;
	f->onward = f->e.xlat;
	f->via = f->e.out_if;
	return tuple_equal(&f->onward, &p.t) ? INNER_BRIDGE : INNER_FLOW;
}

/* inner_error translates the packet that an ICMP error embeds, if it is of a flow of this host. */
__noinline int inner_error(struct __sk_buff *skb)
{
	struct icmp_work *w = icmp_scratch();
	struct flow *f = flow_scratch();
	struct ct_entry *e;
	struct pkt p;

	if (!w || !f || inner_parse(skb, &p))
		return INNER_BRIDGE;
	/* Its answers come from the member, and its packets from the node that it came to. */
	if (icmp_related(skb, &p, VIA(VIA_NET(skb->cb[0]), 0), skb->cb[0] & ~FROM_HOST, w, &e) ||
	    !e)
		return INNER_BRIDGE;
	f->onward = w->to;
	f->via = e->out_if;
	return INNER_FLOW;
}

/* Leaves a packet to the stack, whose errors reach the sender by the host port. The program cannot make
 * one: the kernel shortens no packet that arrived in a tunnel. Nor can it send a packet to a next hop by
 * itself if skb->protocol is that of the outer packet: the host port's device sets it. */
static __always_inline int inner_to_stack(struct __sk_buff *skb, const struct endpoint *hp,
					  struct dest *d)
{
	if (!hp || bpf_skb_store_bytes(skb, 0, hp->gw_mac, ETH_ALEN, 0))
		return -DROP_ENDPOINT_GONE;
	return dest_host(d, hp, PATH_STACK); /* to_uplink translates it then */
}

/* Routes the answer of a backend to a client outside. */
static __always_inline int inner_outside(struct __sk_buff *skb, struct pkt *p, struct flow *f,
					 const struct endpoint *hp, struct dest *d)
{
	struct next_hop *hop;

	if (!hp)
		return -DROP_ENDPOINT_GONE;
	switch (route_find(skb, p, &f->onward, hp->gateway_if, false, &hop)) {
	case ROUTE_OK:
		return dest_next_hop(d, hop, &f->onward);
	case ROUTE_TOO_BIG:
		if (xlat_needed(p, &f->onward.daddr))
			return -DROP_TOO_BIG;
		break;
	case ROUTE_STACK:
		if (xlat_needed(p, &f->onward.daddr))
			return -DROP_NO_ROUTE;
		break;
	}
	return inner_to_stack(skb, hp, d);
}

/* inner_flow sends a packet of a flow to the client. */
__noinline int inner_flow(struct __sk_buff *skb)
{
	struct flow *f = flow_scratch();
	struct tunnel *t = tunnel_of(VIA_NET(skb->cb[0]));
	struct endpoint *hp = t ? endpoint_find(t->hostport_if) : NULL;
	struct dest d = {};
	struct pkt p;
	int err;

	if (!f)
		return -DROP_NAT_FAILED;
	err = inner_parse(skb, &p);
	if (err)
		return err;
	if (p.ttl <= 1)
		err = p.flags & PKT_ICMP_ERROR ? -DROP_TTL : inner_to_stack(skb, hp, &d);
	else if (f->via)
		err = dest_endpoint(&d, f->via, &f->onward);
	else
		err = inner_outside(skb, &p, f, hp, &d);
	if (err)
		return err;
	/* skb->protocol may still be that of the outer packet; a device sets it. */
	if ((skb->protocol == bpf_htons(ETH_P_IP)) != !!(p.flags & PKT_IP4)) {
		if (d.kind == DEST_NEXT_HOP) {
			if (xlat_needed(&p, &f->onward.daddr))
				return -DROP_TUNNEL_FAILED;
			d.to = NULL;
			inner_to_stack(skb, hp, &d);
		}
		if (d.kind == DEST_SANDBOX)
			d.kind = DEST_QUEUE;
	}
	return deliver(skb, &p, &d);
}

/* inner_bridge sends a frame to the member that its MAC names. */
__noinline int inner_bridge(struct __sk_buff *skb)
{
	struct dest d = {};
	struct ethhdr eth;
	int err;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return -DROP_TUNNEL_FAILED;
	err = tunnel_dest(&d, VIA_NET(skb->cb[0]), &eth);
	if (err)
		return err;
	if (d.kind == DEST_HOST_PORT && bpf_skb_store_bytes(skb, 0, eth.h_dest, ETH_ALEN, 0))
		return -DROP_TUNNEL_FAILED;
	if (d.kind == DEST_SANDBOX && skb->protocol != eth.h_proto)
		d.kind = DEST_QUEUE;
	return deliver(skb, NULL, &d);
}

/* Handles a packet whose outer headers were removed, in a network with services. */
static __always_inline int tunnel_inner(struct __sk_buff *skb)
{
	int step = inner_lookup(skb);

	if (step == INNER_ERROR)
		step = inner_error(skb);
	else if (step == INNER_BEGIN)
		step = inner_begin(skb);
	if (step == INNER_FLOW)
		return inner_flow(skb);
	return step == INNER_BRIDGE ? inner_bridge(skb) : step;
}
