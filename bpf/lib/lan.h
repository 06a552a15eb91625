/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Networks whose members are on the link of an uplink (driver lan, decision 51), with MACs and addresses of
 * their own: frames pass between them, the link and the host's stack as through a switch, unchanged and
 * untracked. The host port of such a network is the uplink: its MAC is that of the stack.
 *
 * A frame to the uplink's own MAC is PACKET_HOST, so that only frames to others and to groups come here.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "config.h"
#include "count.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "flood.h"
#include "uplink.h"
#include "vlan.h"

struct lan_macs {
	__u8 dst[6];
	__u8 src[6];
};

/* Copies a frame of a member to the link, and to the host's stack. */
static __always_inline void lan_copies(struct __sk_buff *skb, __u32 uplink, __u32 mark)
{
	skb->mark = mark;
	bpf_clone_redirect(skb, uplink, 0);
	skb->mark = 0;
	bpf_clone_redirect(skb, uplink, BPF_F_INGRESS);
}

/* Forwards a checked frame of a member. VERDICT_NEXT: the other members still get their copies. Global, so
 * that it is verified once. */
__noinline int lan_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct fdb_entry *dst;
	struct dest d = {};
	struct uplink *up;
	__u32 mark;
	__u8 mac[6];

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return -DROP_MALFORMED;
	up = uplink_find(ep->gateway_if);
	if (!up || up->lan != ep->net)
		return -DROP_NO_MEMBER;
	/* To to_uplink: it comes from a member, so that they need no copy of it. */
	mark = cfg_mark + (up->flags / UP_BELOW & UP_BELOW_MAX);
	if (mac[0] & 1) {
		if (!flood_done(skb))
			lan_copies(skb, ep->gateway_if, mark);
		return VERDICT_NEXT;
	}
	dst = fdb_local(ep->net, mac);
	if (!dst || dst->flags & EP_HOSTPORT) {
		count_path(skb, PATH_REDIRECT);
		skb->mark = dst ? 0 : mark;
		return bpf_redirect(ep->gateway_if, dst ? BPF_F_INGRESS : 0);
	}
	if (dst->ifindex == skb->ifindex)
		return -DROP_NO_MEMBER;
	if (!(ep->flags & EP_ICC))
		return -DROP_ICC;
	dest_member(&d, dst, ep->net);
	return deliver(skb, NULL, &d);
}

/* Copies a frame from the link or from the host's stack to the members, and passes it on. As flood(), it sends
 * the frame to its own device once more for those that one run has no copy for. */
static __noinline int lan_flood(struct __sk_buff *skb, __u32 net)
{
	struct flood f = {
		.skb = skb,
		.net = net,
		.only = FLOOD_MEMBERS,
		.done = flood_done(skb),
		.base = skb->hash, /* as in flood() */
	};
	__u32 mark = skb->mark, members;
	int verdict = f.done ? TC_ACT_SHOT : VERDICT_NEXT;

	f.members = f.base;
	bpf_for_each_map_elem(&fl_endpoint, flood_one, &f, 0);
	members = f.members - f.base;
	if (f.copied && !f.done)
		count_traffic(net, DIR_TO_ENDPOINT, skb->len);
	f.done += cfg_flood_slice;
	if (members > f.done && !flood_again(skb, f.done))
		count_event(EV_FLOOD_CUT);
	skb->mark = mark;
	return verdict;
}

/* Handles a frame that arrived at an uplink and is not addressed to it. */
__noinline int lan_from_uplink(struct __sk_buff *skb)
{
	struct uplink *up = uplink_find(skb->ifindex);
	struct fdb_entry *dst;
	struct dest d = {};
	struct lan_macs m;
	int err;

	if (!flood_done(skb))
		count_traffic(NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	if (!up || !(up->flags & UP_LAN))
		return VERDICT_NEXT;
	if (skb->vlan_present) {
		if (vlan_id(skb))
			return VERDICT_NEXT; /* of another link */
		err = vlan_untag(skb);
		if (err)
			return err;
	}
	if (is_vlan(skb->protocol))
		return VERDICT_NEXT;
	if (bpf_skb_load_bytes(skb, 0, &m, sizeof(m)))
		return VERDICT_NEXT;
	/* The others have their copies of what a member sends to the host's stack. */
	if (!flood_done(skb) && fdb_local(up->lan, m.src))
		return m.dst[0] & 1 ? VERDICT_NEXT : -DROP_SPOOFED_MAC;
	if (m.dst[0] & 1)
		return lan_flood(skb, up->lan);
	dst = fdb_local(up->lan, m.dst);
	if (!dst || dst->flags & EP_HOSTPORT)
		return VERDICT_NEXT;
	dest_member(&d, dst, up->lan);
	return deliver(skb, NULL, &d);
}

/* Handles a frame of the host's stack, or of a member of another network, that leaves by an uplink. */
__noinline int lan_to_uplink(struct __sk_buff *skb)
{
	struct uplink *up = uplink_find(skb->ifindex);
	struct fdb_entry *dst;
	struct dest d = {};
	__u8 mac[6];

	if (!up || !(up->flags & UP_LAN))
		return VERDICT_NEXT;
	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return VERDICT_NEXT;
	if (mac[0] & 1)
		return lan_flood(skb, up->lan);
	dst = fdb_local(up->lan, mac);
	if (!dst || dst->flags & EP_HOSTPORT)
		return VERDICT_NEXT;
	/* The stack would route between members that may not reach each other. */
	if (!(dst->flags & EP_ICC) && skb->ingress_ifindex == skb->ifindex)
		return -DROP_ICC;
	dest_member(&d, dst, up->lan);
	d.kind = DEST_QUEUE; /* bpf_redirect_peer is for arriving frames */
	return deliver(skb, NULL, &d);
}

/* The same for a translated packet, which was counted before. */
static __always_inline int lan_translated(struct __sk_buff *skb)
{
	int verdict = lan_to_uplink(skb);

	return verdict == VERDICT_NEXT ? TC_ACT_UNSPEC : finish(skb, verdict);
}
