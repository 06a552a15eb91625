/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * VLAN tags. When a tc program runs, the kernel has taken the outermost tag off the frame and
 * keeps it beside (vlan_present, vlan_tci). After the program it may take off more, and the
 * receiver's kernel takes off the rest (__netif_receive_skb_core): what the program parsed is then
 * not what the receiver sees. So a frame is untagged here, or it is refused.
 */

#include <linux/if_ether.h>
#include "count.h"

#define VLAN_VID_MASK 0x0fff /* of the TCI, IEEE 802.1Q-2018 section 9.6 */

static __always_inline bool is_vlan(__be16 eth_proto)
{
	return eth_proto == bpf_htons(ETH_P_8021Q) || eth_proto == bpf_htons(ETH_P_8021AD);
}

static __always_inline __u16 vlan_id(const struct __sk_buff *skb)
{
	return skb->vlan_tci & VLAN_VID_MASK;
}

/* Removes the tag that the kernel keeps beside the frame if it is a priority tag (VLAN ID 0), which
 * a receiver removes and ignores. Any other tag, or one more behind it: -DROP_VLAN. Pointers into
 * the packet are void afterwards. */
static __always_inline int vlan_untag(struct __sk_buff *skb)
{
	if (vlan_id(skb) || bpf_skb_vlan_pop(skb) || skb->vlan_present)
		return -DROP_VLAN;
	return 0;
}
