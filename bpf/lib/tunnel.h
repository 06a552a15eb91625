/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Frames to members on other nodes: encapsulated here and sent to the node by the host's route, of
 * which the kernel looks up the next hop itself, so that the host's IPsec policies hold.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "count.h"
#include "drop.h"
#include "endpoint.h"
#include "icmp.h"
#include "icmp_send.h"
#include "node.h"
#include "pair.h"
#include "pkt.h"
#include "skb.h"
#include "uplink.h"
#include "vni.h"
#include "vxlan.h"

/*
 * Frames that an endpoint's device receives a second time, with these marks:
 *
 * TUNNEL_MARK: the outer headers are in place, and only the way to the node in the lower half is
 * missing. The kernel's functions for it need the right skb->protocol, which only a device sets.
 *
 * COPY_MARK: a copy of a broadcast, for the nth node of the network; n is in the lower half.
 */
#define TUNNEL_MARK 0xf1a30000
#define COPY_MARK 0xf1a40000
#define MARK_KIND 0xffff0000

static __always_inline bool tunnel_marked(const struct __sk_buff *skb)
{
	__u32 kind;

	if (!cfg_vxlan_port)
		return false;
	kind = skb->mark & MARK_KIND;
	return kind == TUNNEL_MARK || kind == COPY_MARK;
}

/* The largest IP packet that fits into the tunnel to node id, in bytes; 0: any. */
static __always_inline __u32 tunnel_mtu(const struct tunnel *t, const struct node *n, __u32 id)
{
	__u32 learned = node_mtu_learned(id), mtu = t->mtu;

	if (n->mtu && (!mtu || n->mtu < mtu))
		mtu = n->mtu;
	return learned && (!mtu || learned < mtu) ? learned : mtu;
}

/* Checks that a frame from endpoint ep, or each of its segments, fits into a tunnel. Otherwise the
 * sender receives an ICMP error, unless the frame is a copy. Returns 0 or a verdict. */
__noinline int tunnel_fits(struct __sk_buff *skb, const struct endpoint *ep, __u32 mtu, bool copy)
{
	const union ip *src;
	struct pkt p;
	__u32 kind;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	if (!is_ip(skb->protocol))
		return -DROP_TOO_BIG;
	/* A later fragment has a length, whether or not its first is known. */
	if (parse(skb, &p, skb->protocol) && !p.len)
		return -DROP_MALFORMED;
	if (p.len <= mtu)
		return 0;
	if (copy)
		return -DROP_TOO_BIG;
	/* The host would not accept an error from the gateway, whose address is its own. */
	src = p.flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;
	if (ep->flags & EP_HOSTPORT)
		src = &p.t.daddr;
	kind = p.flags & PKT_IP4 ? ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED) :
				   ICMP_KIND(ICMPV6_PKT_TOOBIG, 0);
	return icmp_refuse(skb, &p, src, kind, mtu, -DROP_TOO_BIG);
}

/* Sends a packet whose outer headers are complete. */
static __always_inline int tunnel_leave(struct __sk_buff *skb, const struct node *n)
{
	skb->mark = cfg_mark + n->up_flags / UP_BELOW; /* to_uplink: as it should be */
	return bpf_redirect_neigh(n->ifindex, NULL, 0, 0);
}

#define TUNNEL_ROOM_FLAGS                                                                        \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | \
	 BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

/* Makes room for the outer headers of an IP packet, so that devices segment it as a tunnel's.
 * Refused by the kernel for other frames, and if the sandbox itself encapsulated the packet. */
static __always_inline bool tunnel_room(struct __sk_buff *skb, bool over4)
{
	__u64 l3 = over4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	__s32 room = over4 ? VXLAN_ROOM(sizeof(struct iphdr)) : VXLAN_ROOM(sizeof(struct ipv6hdr));

	return !bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, l3 | TUNNEL_ROOM_FLAGS);
}

/* Not inlined: the callers' stack is full. */
static __noinline bool tunnel_write(struct __sk_buff *skb, const struct vxlan_head *h,
				    const struct node *n)
{
	return ip_is4(&n->remote) ? vxlan_write4(skb, h, n) : vxlan_write6(skb, h, n);
}

/* Encapsulates any other frame and lets the device receive it once more. */
static __always_inline int tunnel_again(struct __sk_buff *skb, const struct vxlan_head *h,
					const struct node *n, __u32 id)
{
	__u32 room = ip_is4(&n->remote) ? VXLAN_ROOM(sizeof(struct iphdr)) :
					  VXLAN_ROOM(sizeof(struct ipv6hdr));

	/* An aggregate would be segmented as if the outer headers belonged to the sandbox's own. */
	if (skb->gso_size || bpf_skb_change_head(skb, room, 0))
		return -DROP_TUNNEL_FAILED;
	if (!tunnel_write(skb, h, n))
		return -DROP_TUNNEL_FAILED;
	skb->mark = TUNNEL_MARK | id;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Encapsulates a frame for node id and sends it. first: the first two bytes behind Ethernet. */
static __noinline int tunnel_wrap(struct __sk_buff *skb, struct vxlan_head *h, const struct node *n,
				  __u32 id, __be16 first)
{
	__u8 ecn;

	if (!is_ip(skb->protocol))
		return tunnel_again(skb, h, n, id);
	ecn = ecn_of(first, skb->protocol == bpf_htons(ETH_P_IP));
	h->ecn = ecn == ECN_CE ? ECN_ECT0 : ecn; /* as the kernel (INET_ECN_encapsulate) */
	if (!tunnel_room(skb, ip_is4(&n->remote)))
		return tunnel_again(skb, h, n, id);
	return tunnel_write(skb, h, n) ? tunnel_leave(skb, n) : -DROP_TUNNEL_FAILED;
}

/* What tunnel_send sends. */
enum tunnel_kind {
	TUNNEL_FRAME,  /* a frame as a member sent it */
	TUNNEL_PACKET, /* a packet that was routed or translated here */
	TUNNEL_COPY,   /* a copy of a broadcast, which is counted already */
};

/* Records that the frames of this pair are encapsulated for node id. A packet that differs from what ep
 * sent does not come here. */
static __always_inline void tunnel_cache(struct __sk_buff *skb, const struct endpoint *ep,
					 const struct tunnel *t, const struct node *n, __u32 id,
					 __u32 mtu)
{
	struct pair *s;

	/* What a host port, a backend, or a member beside a service sends needs more lookups. */
	if (!cfg_cache || ep->flags & (EP_HOSTPORT | EP_PUBLISHED | EP_REMOTE_POOL))
		return;
	s = pair_record(DATA(skb, 0), DATA_END(skb), skb->ifindex, ep->net);
	if (!s)
		return;
	s->kind = PAIR_TUNNEL;
	s->out = id;
	s->node = *n;
	s->vni = t->vni;
	s->mtu = mtu;
	s->tick = clock_tick();
}

/* Sends a frame from endpoint ep to node id. kind: enum tunnel_kind. Global, so that it is verified
 * once. */
__noinline int tunnel_send(struct __sk_buff *skb, const struct endpoint *ep, __u32 id, __u32 kind)
{
	struct vxlan_head h = {};
	struct ethhdr *eth;
	struct tunnel *t;
	int verdict = 0;
	struct node *n;
	__u32 mtu;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	t = tunnel_of(ep->net);
	n = node_find(id);
	if (!t || !n || !n->ifindex)
		return -DROP_NO_NODE;
	if (t->flags & TUNNEL_ENCRYPTED && !(n->flags & NODE_ENCRYPTED))
		return -DROP_CLEAR_TEXT;
	mtu = tunnel_mtu(t, n, id);
	if (mtu && (skb->gso_size || skb->len - ETH_HLEN > mtu))
		verdict = tunnel_fits(skb, ep, mtu, kind == TUNNEL_COPY);
	if (verdict)
		return verdict;
	if (kind == TUNNEL_FRAME)
		tunnel_cache(skb, ep, t, n, id, mtu);
	h.sport = vxlan_sport(bpf_get_hash_recalc(skb)); /* of the frame, before it grows */
	h.vni = t->vni;
	h.len = skb->len;
	if (!have(skb, L3 + 2))
		return -DROP_MALFORMED;
	eth = DATA(skb, 0);
	if ((void *)eth + L3 + 2 > DATA_END(skb))
		return -DROP_MALFORMED;
	__builtin_memcpy(&h.eth, eth, ETH_HLEN);
	/* The gateway's MAC is the same on each node. */
	if (ep->flags & EP_HOSTPORT)
		__builtin_memcpy(h.eth.h_source, t->node_mac, ETH_ALEN);
	verdict = tunnel_wrap(skb, &h, n, id, *(__be16 *)((void *)eth + L3));
	if (verdict >= 0 && kind != TUNNEL_COPY)
		count(&fl_paths, PATH_TUNNEL, h.len);
	return verdict;
}

/* Handles a frame that the device of endpoint ep receives a second time. */
static __always_inline int tunnel_continue(struct __sk_buff *skb, const struct endpoint *ep)
{
	__u32 kind = skb->mark & MARK_KIND, low = skb->mark & ~MARK_KIND, id;
	struct node *n;
	int verdict;

	skb->mark = 0;
	if (kind == TUNNEL_MARK) {
		n = node_find(low);
		return n && n->ifindex ? tunnel_leave(skb, n) : -DROP_NO_NODE;
	}
	id = tunnel_node(ep->net, low);
	verdict = id ? tunnel_send(skb, ep, id, TUNNEL_COPY) : -DROP_NO_NODE;
	if (verdict >= 0)
		return verdict;
	/* The broadcast itself counts as forwarded. */
	count_event(EV_TUNNEL_CUT);
	return TC_ACT_SHOT;
}
