/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Where a packet goes. Every lookup that decides it, of a MAC, an address, a flow or a route, fills
 * in a struct dest; deliver() sends the packet there (deliver.h).
 *
 * A new kind of destination is added here and in deliver(). Other nodes are not: a frame to a member
 * on one is bridged there (bridge.h), and a packet of a flow goes there by way of via.h.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "config.h"
#include "count.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "fib.h"
#include "flow.h"
#include "node.h"
#include "tuple.h"

enum dest_kind {
	DEST_STACK,	/* the host's stack continues with the packet where it is now */
	DEST_HOST_PORT, /* the host's stack, through the network's host port */
	DEST_SANDBOX,	/* straight into a sandbox */
	DEST_QUEUE,	/* through the queue of an endpoint's or a host port's device */
	DEST_NEXT_HOP,	/* out of an uplink */
};

/* All zero: the stack, untranslated. */
struct dest {
	enum dest_kind kind;
	enum fwd_path path;	   /* of DEST_HOST_PORT */
	__u32 ifindex;		   /* of a device of this host; not of DEST_NEXT_HOP */
	__u32 net;		   /* network index it is accounted to */
	const struct tuple *to;	   /* the packet is translated to it; NULL: it is not */
	const struct endpoint *ep; /* the packet is routed to it; NULL: it is bridged */
	struct next_hop *hop;	   /* of DEST_NEXT_HOP */
};

/* The device of a member of network net with these flags (enum ep_flag). */
static __always_inline void dest_device(struct dest *d, __u32 ifindex, __u32 net, __u32 flags)
{
	d->kind = flags & (EP_SHAPED | EP_HOSTPORT) ? DEST_QUEUE : DEST_SANDBOX;
	d->ifindex = ifindex;
	d->net = net;
}

/* The host, through the host port of a network. */
static __always_inline void dest_host_port(struct dest *d, __u32 ifindex, __u32 net,
					   enum fwd_path path)
{
	d->kind = DEST_HOST_PORT;
	d->path = path;
	d->ifindex = ifindex;
	d->net = net;
	d->hop = NULL; /* it may have been one before */
}

/* The member of network net with FDB entry e. */
static __always_inline void dest_member(struct dest *d, const struct fdb_entry *e, __u32 net)
{
	if (e->flags & EP_HOSTPORT)
		dest_host_port(d, e->ifindex, net, PATH_REDIRECT);
	else
		dest_device(d, e->ifindex, net, e->flags);
}

/* Notes that the packet, translated to *to, leaves for the node that via stands for. Returns
 * VERDICT_NODE, which the callers pass on, or -DROP_X. Not inlined: few packets come here. */
static __noinline int dest_via(__u32 via, const struct tuple *to)
{
	struct flow *f = flow_scratch();

	if (!f || !to || !(via & VIA_NODE))
		return -DROP_ENDPOINT_GONE;
	f->via = via;
	f->onward = *to;
	return VERDICT_NODE;
}

/* Endpoint ifindex, as a router, with the packet translated to *to. Returns 0, VERDICT_NODE or
 * -DROP_X. */
static __always_inline int dest_endpoint(struct dest *d, __u32 ifindex, const struct tuple *to)
{
	struct endpoint *ep = endpoint_find(ifindex);

	if (!ep)
		return cfg_vxlan_port ? dest_via(ifindex, to) : -DROP_ENDPOINT_GONE;
	dest_device(d, ifindex, ep->net, ep->flags);
	d->ep = ep;
	d->to = to;
	return 0;
}

/* The next hop of a route, with the packet translated to *to. */
static __always_inline int dest_next_hop(struct dest *d, struct next_hop *hop,
					 const struct tuple *to)
{
	d->kind = DEST_NEXT_HOP;
	d->hop = hop;
	d->to = to;
	return 0;
}

/* The host, because endpoint ep sends to it (PATH_REDIRECT), or because BPF cannot handle the
 * packet (PATH_STACK). */
static __always_inline int dest_host(struct dest *d, const struct endpoint *ep, enum fwd_path path)
{
	dest_host_port(d, ep->hostport_if, ep->net, path);
	return 0;
}
