/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * VLAN tags. When a tc program runs, the kernel has removed the outermost tag from the frame and
 * keeps it in skb metadata (vlan_present, vlan_tci). Behind it may be more tags, which the
 * receiver's kernel removes (__netif_receive_skb_core): the receiver would then not see what the
 * program parsed. So a frame is untagged here, or it is refused.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "drop.h"

#define VLAN_VID_MASK 0x0fff /* of the TCI, IEEE 802.1Q-2018 section 9.6 */

static __always_inline bool is_vlan(__be16 eth_proto)
{
	return eth_proto == bpf_htons(ETH_P_8021Q) || eth_proto == bpf_htons(ETH_P_8021AD);
}

static __always_inline __u16 vlan_id(const struct __sk_buff *skb)
{
	return skb->vlan_tci & VLAN_VID_MASK;
}

/* Removes the tag from the skb metadata if it is a priority tag (VLAN ID 0), which a receiver
 * removes and ignores. Any other tag, or a second one: -DROP_VLAN. Pointers into the packet are
 * invalid afterwards. */
static __always_inline int vlan_untag(struct __sk_buff *skb)
{
	if (vlan_id(skb) || bpf_skb_vlan_pop(skb) || skb->vlan_present)
		return -DROP_VLAN;
	return 0;
}
