/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Removing the outer headers of frames from other nodes. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "arrival.h"
#include "config.h"
#include "dest.h"
#include "drop.h"
#include "outer.h"
#include "pkt.h"
#include "send.h"
#include "skb.h"
#include "vxlan.h"

#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7) /* 6.3 */
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

/* Pads the frame at the offset to the size that kernels without the flags of tunnel_strip require
 * after its header: that of the outer IP header. Ethernet pads short frames, too. */
static __always_inline int tunnel_pad(struct __sk_buff *skb, __u32 frame)
{
	__u32 least = frame + ETH_HLEN + sizeof(struct ipv6hdr);

	if (skb->protocol != bpf_htons(ETH_P_IPV6) || skb->len >= least)
		return 0;
	return bpf_skb_change_tail(skb, least, 0);
}

/* Removes everything before the frame of the datagram at l4. */
static __always_inline int tunnel_strip(struct __sk_buff *skb, __u32 l4, const struct ethhdr *inner)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	struct ethhdr *eth;

	/* The flag sets skb->protocol, and how short the frame may be: it may be an ARP packet. */
	if (cfg_decap_l3)
		flags |= inner->h_proto == bpf_htons(ETH_P_IPV6) ? BPF_F_ADJ_ROOM_DECAP_L3_IPV6 :
								   BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	else if (tunnel_pad(skb, l4 + 16))
		return -DROP_TUNNEL_FAILED;
	if (bpf_skb_adjust_room(skb, -(__s32)(l4 + 16), BPF_ADJ_ROOM_MAC, flags))
		return -DROP_TUNNEL_FAILED;
	/* What the device verified was the outer checksum, or one more. */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	if (!have(skb, sizeof(*eth)))
		return -DROP_TUNNEL_FAILED;
	eth = DATA(skb, 0);
	if ((void *)(eth + 1) > DATA_END(skb))
		return -DROP_TUNNEL_FAILED;
	__builtin_memcpy(eth, inner, sizeof(*eth));
	return 0;
}

/* Handles a datagram to the tunnels' port, whose UDP header is at l4. VERDICT_NEXT: it is not for
 * an overlay of this host. VERDICT_INNER, VERDICT_GROUP: the rest is done by tunnel_inner or
 * tunnel_group. Global, so that it is verified once. */
__noinline int tunnel_receive(struct __sk_buff *skb, __u32 l4)
{
	struct vxlan_frame f = {};
	struct outer o = {};
	struct dest d = {};
	__be16 first = 0;
	int verdict, where;
	bool is4, ip;
	__u8 ecn;

	if (!frame_read(skb, l4, &f) || !outer_read(skb, &o))
		return VERDICT_NEXT;
	where = tunnel_lookup_cached(skb, &f, &o, &d);
	if (where && where != VERDICT_INNER && where != VERDICT_GROUP)
		return where;
	ip = is_ip(f.eth.h_proto);
	is4 = f.eth.h_proto == bpf_htons(ETH_P_IP);
	if (ip && bpf_skb_load_bytes(skb, l4 + VXLAN_FRAME_LEN, &first, sizeof(first)))
		return -DROP_MALFORMED;
	ecn = ecn_of(first, is4);
	verdict = ip ? ecn_combine(o.ecn, &ecn) : 0;
	if (!verdict)
		verdict = tunnel_strip(skb, l4, &f.eth);
	if (!verdict && ip && ecn != ecn_of(first, is4))
		verdict = set_ecn(skb, is4, ecn);
	if (verdict || where)
		return verdict ? verdict : where;
	/* skb->protocol may still be that of the outer packet; a device sets it. */
	if (d.kind == DEST_SANDBOX && skb->protocol != f.eth.h_proto)
		d.kind = DEST_QUEUE;
	return send_device(skb, &d);
}
