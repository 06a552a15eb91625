/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Sending a packet that is complete. This counts its path. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "count.h"
#include "dest.h"
#include "fib.h"
#include "uplink.h"

/* Sends the packet to the device of a sandbox or of a host port. The sandbox must not see marks of
 * the host. */
static __always_inline int send_device(struct __sk_buff *skb, const struct dest *d)
{
	count_traffic(d->net, DIR_TO_ENDPOINT, skb->len);
	if (d->kind == DEST_HOST_PORT) {
		count_path(skb, d->path);
		return bpf_redirect(d->ifindex, 0);
	}
	skb->mark = 0;
	if (d->kind == DEST_QUEUE) {
		count_path(skb, PATH_REDIRECT);
		return bpf_redirect(d->ifindex, 0);
	}
	count_path(skb, PATH_PEER);
	/* Below 6.15 the receiver would see PACKET_OTHERHOST and drop it: the
	 * frame is not addressed to the host end (kernel commit c4327229948879). */
	if (skb->pkt_type != 0)
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(d->ifindex, 0);
}

/* skb->mark of a packet for hop. To to_uplink it says that the packet is translated already. */
static __always_inline __u32 next_hop_mark(const struct next_hop *hop)
{
	return cfg_mark + hop->up_flags / UP_BELOW;
}

/* Sends the packet out of an uplink, to the next hop. */
static __always_inline int send_next_hop(struct __sk_buff *skb, __u32 ifindex,
					 struct bpf_redir_neigh *nh, __u32 mark)
{
	count_path(skb, PATH_NEIGH);
	skb->mark = mark;
	return bpf_redirect_neigh(ifindex, nh, sizeof(*nh), 0);
}
