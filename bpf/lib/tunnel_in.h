/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Frames that arrive from other nodes: decapsulated, and delivered to members on this host. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "arrival.h"
#include "config.h"
#include "count.h"
#include "decap.h"
#include "drop.h"
#include "flood.h"
#include "group.h"
#include "hostaddr.h"
#include "node.h"
#include "outer.h"
#include "pkt.h"
#include "vxlan.h"

/* Handles a packet that arrives by the device that encrypts, which has no Ethernet headers. Nodes
 * reach nothing but tunnels by it: the host's firewall does not expect them there. */
static __always_inline int do_from_tunnel(struct __sk_buff *skb)
{
	__u32 l4;
	int verdict;

	if (!is_ip(skb->protocol) || bpf_skb_change_head(skb, ETH_HLEN, 0))
		return -DROP_NOT_TUNNEL;
	l4 = tunnel_l4(skb);
	verdict = l4 ? tunnel_receive(skb, l4) : VERDICT_NEXT;
	return verdict == VERDICT_NEXT ? -DROP_NOT_TUNNEL : verdict;
}

/* Handles a frame to several members, whose outer headers were removed. */
static __always_inline int tunnel_group(struct __sk_buff *skb)
{
	__u32 from = skb->cb[0];
	int kind = group_note(skb, from & ~FROM_HOST, from & FROM_HOST);

	if (kind == GROUP_REPORT || kind == GROUP_KNOWN ||
	    (kind == GROUP_QUERY && from & FROM_HOST)) {
		count_path(skb, PATH_GROUP);
		return TC_ACT_SHOT; /* not a drop: each node queries its own members */
	}
	return flood_arrived(skb, VIA_NET(from));
}

/* Handles a datagram to the tunnels' port whose IP header is not plain. VERDICT_NEXT: it is
 * something else. Only the stack could reassemble
 * fragments, for a device that knows the VNI: the first is refused if it is one of ours. */
static __always_inline int tunnel_odd(struct __sk_buff *skb, const struct pkt *p)
{
	struct vxlan_frame f = {};

	if (!cfg_vxlan_port || p->t.proto != IPPROTO_UDP || p->t.dport != bpf_htons(cfg_vxlan_port))
		return VERDICT_NEXT;
	if (!pkt_is_fragment(p))
		return tunnel_receive(skb, p->l4);
	if (p->flags & PKT_FRAG_FIRST && frame_read(skb, p->l4, &f) && frame_vni(&f) &&
	    host_addr(&p->t.daddr))
		return -DROP_TUNNEL_FRAGMENT;
	return VERDICT_NEXT;
}
