/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The MTU of the path to a node. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "config.h"
#include "icmp.h"
#include "node.h"
#include "pkt.h"
#include "vxlan.h"

/* The least MTU of a path (RFC 791 section 3.1 allows less, which is not plausible; RFC 8200). */
#define PATH_MTU_LEAST4 576
#define PATH_MTU_LEAST6 1280

/* Learns the MTU of the path to a node from ICMP error p, which embeds packet *in. Nothing else would:
 * the host has no socket that sent the packet. */
__noinline int tunnel_learn(struct __sk_buff *skb, const struct pkt *p, const struct pkt *in)
{
	struct {
		__u8 type;
		__u8 code;
		__be16 check;
		__be32 mtu;
	} h = {};
	__u32 id, mtu, room, least;
	union ip remote; /* kernels before 6.2 accept no key in memory of the caller */
	struct node *n;

	if (!p || !in || bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
		return 0;
	mtu = bpf_ntohl(h.mtu);
	if (p->flags & PKT_IP4) {
		if (h.type != ICMP_DEST_UNREACH || h.code != ICMP_FRAG_NEEDED)
			return 0;
		mtu &= 0xffff; /* RFC 1191 section 4 */
		least = PATH_MTU_LEAST4;
		room = VXLAN_ROOM(sizeof(struct iphdr));
	} else {
		if (h.type != ICMPV6_PKT_TOOBIG)
			return 0;
		least = PATH_MTU_LEAST6;
		room = VXLAN_ROOM(sizeof(struct ipv6hdr));
	}
	if (in->t.proto != IPPROTO_UDP || in->t.dport != bpf_htons(cfg_vxlan_port) ||
	    bpf_ntohs(in->t.sport) < VXLAN_SPORT_MIN || mtu < least || mtu >= in->len)
		return 0;
	remote = in->t.daddr;
	id = node_at(&remote);
	n = node_find(id);
	/* No router sees what goes by the device that encrypts. */
	if (n && !(n->flags & NODE_ENCRYPTED) && ip_equal(&n->local, &in->t.saddr) &&
	    ip_equal(&n->remote, &remote))
		node_mtu_learn(id, mtu - room);
	return 0;
}
