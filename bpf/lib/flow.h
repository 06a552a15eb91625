/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The flow that a packet begins: its direction, its devices and its translation. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "config.h"
#include "ct.h"
#include "drop.h"
#include "endpoint.h"
#include "node.h"
#include "pkt.h"
#include "portbits.h"
#include "service.h"
#include "tuple.h"
#include "vni.h"

/* The flow that flow_create is to create. */
struct flow {
	struct ct_entry e;     /* of the first packet's direction; flags and times are filled in */
	struct ct_entry reply; /* scratch */
	struct tuple key;      /* scratch */
	struct tuple rkey;     /* scratch */
	struct tuple other;    /* scratch */
	struct bpf_sock_tuple st;   /* scratch */
	struct service_key at;	    /* scratch */
	struct backend_key backend; /* scratch */
	__u32 host_src;	     /* e.xlat.saddr is the host's own: avoid its sockets and publishes */
	__u32 gateway;	     /* it belongs to a gateway: see GATEWAY_PORT_MAX */
	struct tuple onward; /* of a packet for another node: translated to this (dest_via) */
	__u32 via;	     /* where it goes */
	__u32 pad;
};

/* Too big for the stack. Programs of one CPU do not interrupt each other between
 * flow_scratch() and the last use: tc programs run with bottom halves off. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} fl_scratch SEC(".maps");

static __always_inline struct flow *flow_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_scratch, &zero);
}

/* flow_prepare initialises the description of the flow of packet p in flow_scratch(): not
 * translated, in network net, from device in_if to out_if (as in struct ct_entry). */
static __always_inline struct flow *flow_prepare(const struct pkt *p, __u32 net, __u32 in_if,
						 __u32 out_if)
{
	struct flow *f = flow_scratch();

	if (!f)
		return NULL;
	f->e.xlat = p->t;
	f->e.xlat.ask |= p->t.answer; /* unsolicited: what comes back is not its reply */
	f->e.in_if = in_if;
	f->e.out_if = out_if;
	f->e.publish = 0;
	f->e.net = net;
	f->e.flags = 0;
	f->host_src = 0;
	f->gateway = 0;
	return f;
}

/* Makes the flow leave with the host's address src. */
static __always_inline void flow_masquerade(struct flow *f, const union ip *src)
{
	f->e.xlat.saddr = *src;
	f->host_src = 1;
}

/* Makes the gateway of the destination's network the source of the flow, so that replies come
 * back here. */
static __always_inline void flow_from_gateway(struct flow *f, const union ip *gateway)
{
	flow_masquerade(f, gateway);
	f->gateway = 1;
}

/* Directs the flow to backend b of service s, at the port that the client uses. */
static __always_inline void flow_to_backend(struct flow *f, const struct service *s,
					    const struct backend *b)
{
	f->e.xlat.daddr = b->addr;
	f->e.publish = s->id;
}

/* The address that stands for clients of backend b on this host: the gateway's of its network. A
 * backend on another node would answer its own gateway, so for that it is this host's own. NULL: the
 * backend is gone. Not inlined, to save stack. */
static __noinline const union ip *client_address(const struct backend *b)
{
	bool is4 = ip_is4(&b->addr);
	struct endpoint *ep = endpoint_find(b->ifindex);
	struct tunnel *t;

	if (ep)
		return is4 ? &ep->gw4 : &ep->gw6;
	if (!cfg_vxlan_port || !(b->ifindex & VIA_NODE))
		return NULL;
	t = tunnel_of(b->net);
	if (!t)
		return NULL;
	return is4 ? &t->node4 : &t->node6;
}

/* Directs the flow to backend b of service s, at the port of the service. For a client on this
 * host (here), and for a client of a family that the backend lacks, client_address replaces the
 * client as source. Returns 0 or -DROP_X. */
static __always_inline int flow_publish(struct flow *f, const struct service *s,
					const struct backend *b, bool here)
{
	const union ip *gw;

	flow_to_backend(f, s, b);
	f->e.xlat.dport = s->port;
	if (!here && ip_is4(&f->e.xlat.saddr) == ip_is4(&b->addr))
		return 0;
	gw = client_address(b);
	if (!gw)
		return -DROP_ENDPOINT_GONE;
	if (ip_is_zero(gw))
		return -DROP_NO_UPLINK_ADDR;
	flow_from_gateway(f, gw);
	return 0;
}

/* May this packet begin a flow to a published port? For TCP only a SYN may: any other packet
 * belongs to a connection of the host whose local port happens to be published. */
static __always_inline bool publish_may_begin(const struct pkt *p)
{
	if (p->t.proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return false;
	return port_published(p->t.proto, p->t.dport);
}
