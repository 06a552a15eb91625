/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The headers that a tunnel puts before a frame (RFC 7348): IP, UDP, VXLAN. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "csum.h"
#include "drop.h"
#include "node.h"
#include "pkt.h"
#include "skb.h"

struct vxlanhdr {
	__be32 flags;
	__be32 vni; /* upper 24 bits */
};

/* The only flag: the VNI is valid. Frames with others are another protocol's (GPE, GBP). */
#define VXLAN_VALID 0x08000000

/* What follows the outer IP header, up to the inner one. */
struct vxlan_frame {
	struct udphdr udp;
	struct vxlanhdr vxlan;
	struct ethhdr eth;
};
#define VXLAN_FRAME_LEN 30 /* without padding at the end of the struct */

/* What is before the frame's own Ethernet header. */
#define VXLAN_ROOM(ip_header) (ETH_HLEN + (ip_header) + 16)

/* Ports that a tunnel sends from, chosen by the flow so that it keeps its path: RFC 7348 section 5.
 * The formula is that of the kernel (udp_flow_src_port). */
#define VXLAN_SPORT_MIN 49152
#define VXLAN_SPORTS 16383

/* ECN of the IP header behind Ethernet (RFC 3168). */
#define ECN_NONE 0
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE 3

/* What the headers of one frame say. */
struct vxlan_head {
	struct ethhdr eth; /* of the frame inside */
	__be16 sport;
	__u32 vni;
	__u32 len; /* of the frame inside, in bytes */
	__u8 ecn;  /* of the outer header */
};

static __always_inline __be16 vxlan_sport(__u32 hash)
{
	hash ^= hash << 16;
	return bpf_htons(VXLAN_SPORT_MIN + (__u32)(((__u64)hash * VXLAN_SPORTS) >> 32));
}

/* A length of the outer headers. That of an aggregate may not fit: its segments get their own. */
static __always_inline __be16 vxlan_len(__u32 len)
{
	return bpf_htons(len > 0xffff ? 0xffff : len);
}

/* Fills in everything behind the outer IP header. Returns its sum, for CHECKSUM_COMPLETE. */
static __always_inline __u64 vxlan_fill(struct vxlan_frame *f, const struct vxlan_head *h)
{
	const __be16 *w = (const __be16 *)&h->eth;
	__u64 sum = 0;

	f->udp.source = h->sport;
	f->udp.dest = bpf_htons(cfg_vxlan_port);
	f->udp.len = vxlan_len(h->len + 16);
	f->udp.check = 0; /* RFC 7348 section 5, RFC 6935 */
	f->vxlan.flags = bpf_htonl(VXLAN_VALID);
	f->vxlan.vni = bpf_htonl(h->vni << 8);
	__builtin_memcpy(&f->eth, &h->eth, ETH_HLEN);
	for (int i = 0; i < ETH_HLEN / 2; i++)
		sum += w[i];
	return sum + h->sport + f->udp.dest + f->udp.len + f->vxlan.flags + f->vxlan.vni;
}

/* Writes the headers before a frame, in the room that was made for them. */
static __always_inline bool vxlan_write4(struct __sk_buff *skb, const struct vxlan_head *h,
					 const struct node *n)
{
	struct vxlan_frame *f;
	struct ethhdr *eth;
	struct iphdr *ip;
	__be16 len = vxlan_len(h->len + sizeof(*ip) + 16);
	__u64 sum;

	if (!have(skb, L3 + sizeof(*ip) + VXLAN_FRAME_LEN))
		return false;
	eth = DATA(skb, 0);
	ip = DATA(skb, L3);
	f = DATA(skb, L3 + sizeof(*ip));
	if ((void *)f + VXLAN_FRAME_LEN > DATA_END(skb))
		return false;
	eth->h_dest[0] = 0; /* the kernel refuses a group's (__bpf_redirect_neigh) */
	eth->h_proto = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = h->ecn;
	ip->tot_len = len;
	ip->id = 0; /* it is not fragmented (RFC 6864 section 4.1) */
	ip->frag_off = bpf_htons(IP_DF);
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = n->local.w[3];
	ip->daddr = n->remote.w[3];
	sum = bpf_htons(0x4500 | h->ecn) + bpf_htons(IP_DF) + bpf_htons(64 << 8 | IPPROTO_UDP);
	ip->check = ~csum_fold(sum + len + (__u64)n->local.w[3] + n->remote.w[3]);
	bpf_csum_update(skb, csum_fold(vxlan_fill(f, h))); /* the IP header's own sum is 0 */
	return true;
}

static __always_inline bool vxlan_write6(struct __sk_buff *skb, const struct vxlan_head *h,
					 const struct node *n)
{
	struct vxlan_frame *f;
	struct ipv6hdr *ip;
	struct ethhdr *eth;
	__be32 first = bpf_htonl(6 << 28 | h->ecn << 20);
	__u64 sum;

	if (!have(skb, L3 + sizeof(*ip) + VXLAN_FRAME_LEN))
		return false;
	eth = DATA(skb, 0);
	ip = DATA(skb, L3);
	f = DATA(skb, L3 + sizeof(*ip));
	if ((void *)f + VXLAN_FRAME_LEN > DATA_END(skb))
		return false;
	eth->h_dest[0] = 0;
	eth->h_proto = bpf_htons(ETH_P_IPV6);
	*(__be32 *)ip = first;
	ip->payload_len = vxlan_len(h->len + 16);
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, &n->local, sizeof(n->local));
	__builtin_memcpy(&ip->daddr, &n->remote, sizeof(n->remote));
	sum = (__u64)first + ip->payload_len + bpf_htons(IPPROTO_UDP << 8 | 64);
	for (int i = 0; i < 4; i++)
		sum += (__u64)n->local.w[i] + n->remote.w[i];
	sum += vxlan_fill(f, h);
	bpf_csum_update(skb, csum_fold(sum));
	return true;
}

/* The ECN of the IP header at layer 3, whose first two bytes these are. */
static __always_inline __u8 ecn_of(__be16 first, bool is4)
{
	return is4 ? bpf_ntohs(first) & 3 : bpf_ntohs(first) >> 4 & 3;
}

/* Sets the ECN of the packet's IP header and keeps its checksums. */
static __always_inline int set_ecn(struct __sk_buff *skb, bool is4, __u8 ecn)
{
	__be16 *first, old, changed;
	struct iphdr *ip;

	if (!have(skb, L3 + sizeof(*ip)))
		return -DROP_TUNNEL_FAILED;
	ip = DATA(skb, L3);
	if ((void *)(ip + 1) > DATA_END(skb))
		return -DROP_TUNNEL_FAILED;
	first = (void *)ip;
	old = *first;
	if (is4)
		changed = (old & ~bpf_htons(3)) | bpf_htons(ecn);
	else
		changed = (old & ~bpf_htons(3 << 4)) | bpf_htons(ecn << 4);
	*first = changed;
	if (is4) /* RFC 1624; the header's sum stays 0 */
		ip->check = ~csum_fold((__u64)(__u16)~ip->check + (__u16)~old + changed);
	else
		bpf_csum_update(skb, csum_fold((__u64)(__u16)~old + changed));
	return 0;
}
