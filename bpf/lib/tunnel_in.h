/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Frames that arrive from other nodes: decapsulated, and delivered to members on this host. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "config.h"
#include "count.h"
#include "deliver.h"
#include "dest.h"
#include "drop.h"
#include "endpoint.h"
#include "fdb.h"
#include "flood.h"
#include "hostaddr.h"
#include "icmp.h"
#include "node.h"
#include "pkt.h"
#include "skb.h"
#include "vlan.h"
#include "vni.h"
#include "vxlan.h"

#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7) /* 6.3 */
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

/* What the outer IP header says. */
struct outer {
	union ip src;
	union ip dst;
	__u8 ecn;
};

/* Where layer 4 of a datagram to the tunnels' port begins, if its IP header is a plain one and it
 * is whole; else 0. */
static __always_inline __u32 tunnel_l4(struct __sk_buff *skb)
{
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	struct iphdr *ip;
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		l4 = L3 + sizeof(*ip);
		if (!have(skb, L3 + sizeof(*ip) + sizeof(*udp)))
			return 0;
		ip = DATA(skb, L3);
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip->ihl != 5 ||
		    ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_MF | IP_OFFSET))
			return 0;
	} else {
		l4 = L3 + sizeof(*ip6);
		if (!have(skb, L3 + sizeof(*ip6) + sizeof(*udp)))
			return 0;
		ip6 = DATA(skb, L3);
		udp = (void *)(ip6 + 1);
		if ((void *)(udp + 1) > DATA_END(skb) || ip6->nexthdr != IPPROTO_UDP)
			return 0;
	}
	return udp->dest == bpf_htons(cfg_vxlan_port) ? l4 : 0;
}

static __always_inline bool outer_read(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!have(skb, L3 + sizeof(*ip)))
			return false;
		ip = DATA(skb, L3);
		if ((void *)(ip + 1) > DATA_END(skb))
			return false;
		ip_set4(&o->src, ip->saddr);
		ip_set4(&o->dst, ip->daddr);
		o->ecn = ip->tos & 3;
		return true;
	}
	if (!have(skb, L3 + sizeof(*ip6)))
		return false;
	ip6 = DATA(skb, L3);
	if ((void *)(ip6 + 1) > DATA_END(skb))
		return false;
	ip_set6(&o->src, &ip6->saddr);
	ip_set6(&o->dst, &ip6->daddr);
	o->ecn = ecn_of(*(__be16 *)ip6, false);
	return true;
}

/* The network of the frame in the datagram at l4, if its VNI is one of ours; else NULL. */
static __always_inline struct vni *vni_read(struct __sk_buff *skb, __u32 l4, struct vxlan_frame *f)
{
	if (bpf_skb_load_bytes(skb, l4, f, VXLAN_FRAME_LEN) ||
	    f->vxlan.flags != bpf_htonl(VXLAN_VALID))
		return NULL;
	return vni_find(bpf_ntohl(f->vxlan.vni) >> 8);
}

/* May the frame come from there? Returns 0, VERDICT_NEXT for a packet in transit, or a refusal. */
static __always_inline int tunnel_source(struct __sk_buff *skb, const struct outer *o,
					 const struct vni *v, const struct vxlan_frame *f)
{
	__u32 id = node_at(&o->src);
	struct node *n = id ? node_find(id) : NULL;
	struct fdb_entry *e;

	/* Another address of this host will do: the nodes do not learn of a change at once. */
	if ((!n || !ip_equal(&n->local, &o->dst)) && !host_addr(&o->dst))
		return VERDICT_NEXT;
	if (!n)
		return -DROP_TUNNEL_SOURCE;
	if (v->flags & TUNNEL_ENCRYPTED &&
	    !(n->flags & NODE_ENCRYPTED && n->ifindex == skb->ifindex))
		return -DROP_CLEAR_TEXT;
	e = fdb_remote(v->net, f->eth.h_source);
	return e && e->node == id ? 0 : -DROP_TUNNEL_MAC;
}

/* The ECN of the frame inside, which arrived as *ecn, after decapsulation: RFC 6040 section 4.2, as
 * the kernel (INET_ECN_decapsulate). Returns 0 or a refusal. */
static __always_inline int ecn_combine(__u8 outer, __u8 *ecn)
{
	if (outer == ECN_CE && *ecn == ECN_NONE)
		return -DROP_TUNNEL_ECN;
	if (*ecn != ECN_NONE && outer == ECN_CE)
		*ecn = ECN_CE;
	else if (*ecn == ECN_ECT0 && outer == ECN_ECT1)
		*ecn = ECN_ECT1;
	return 0;
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

/* Where a frame from another node goes. The gateway is not reached through a tunnel: each node has
 * its own. *inner's destination becomes that of the device. Returns 0 or a refusal. */
static __always_inline int tunnel_dest(struct dest *d, __u32 net, struct ethhdr *inner)
{
	struct fdb_entry *e = fdb_local(net, inner->h_dest);
	struct tunnel *t;

	if (e && !(e->flags & EP_HOSTPORT)) {
		dest_device(d, e->ifindex, net, e->flags);
		return 0;
	}
	t = tunnel_of(net);
	if (!t || !t->hostport_if || !mac_equal(inner->h_dest, t->node_mac))
		return -DROP_NO_MEMBER;
	__builtin_memcpy(inner->h_dest, t->gw_mac, ETH_ALEN);
	dest_host_port(d, t->hostport_if, net, PATH_REDIRECT);
	return 0;
}

/* Handles a datagram to the tunnels' port, whose UDP header is at l4. VERDICT_NEXT: it is not for
 * an overlay of this host. Global, so that it is verified once. */
__noinline int tunnel_receive(struct __sk_buff *skb, __u32 l4)
{
	struct vxlan_frame f = {};
	struct outer o = {};
	struct dest d = {};
	__be16 first = 0;
	struct vni *v;
	bool is4, ip;
	int verdict;
	__u8 ecn;

	v = vni_read(skb, l4, &f);
	if (!v || !outer_read(skb, &o))
		return VERDICT_NEXT;
	verdict = tunnel_source(skb, &o, v, &f);
	if (verdict)
		return verdict;
	if (is_vlan(f.eth.h_proto))
		return -DROP_VLAN;
	ip = is_ip(f.eth.h_proto);
	is4 = f.eth.h_proto == bpf_htons(ETH_P_IP);
	if (ip && bpf_skb_load_bytes(skb, l4 + VXLAN_FRAME_LEN, &first, sizeof(first)))
		return -DROP_MALFORMED;
	ecn = ecn_of(first, is4);
	verdict = ip ? ecn_combine(o.ecn, &ecn) : 0;
	if (!verdict && !(f.eth.h_dest[0] & 1))
		verdict = tunnel_dest(&d, v->net, &f.eth);
	if (!verdict)
		verdict = tunnel_strip(skb, l4, &f.eth);
	if (!verdict && ip && ecn != ecn_of(first, is4))
		verdict = set_ecn(skb, is4, ecn);
	if (verdict)
		return verdict;
	if (f.eth.h_dest[0] & 1)
		return flood_arrived(skb, v->net);
	/* skb->protocol may still be that of the outer packet; a device sets it. */
	if (d.kind == DEST_SANDBOX && skb->protocol != f.eth.h_proto)
		d.kind = DEST_QUEUE;
	return deliver(skb, NULL, &d);
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
	if (p->flags & PKT_FRAG_FIRST && vni_read(skb, p->l4, &f) && host_addr(&p->t.daddr))
		return -DROP_TUNNEL_FRAGMENT;
	return VERDICT_NEXT;
}

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
	if (n && ip_equal(&n->local, &in->t.saddr) && ip_equal(&n->remote, &remote))
		node_mtu_learn(id, mtu - room);
	return 0;
}
