/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * IP/ICMP translation (RFC 7915), for a client of one family and a backend that has only the
 * other.
 *
 * Tuples hold addresses of both families in one form, so the entries of such a flow are like those
 * of any other. Only the headers of its packets differ, and this header changes those.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "csum.h"
#include "drop.h"
#include "pkt.h"
#include "tuple.h"
#include "xlat_len.h"

/* An IPv4 packet up to this size may be fragmented on its way after translation, since its
 * sender would not send smaller ones (RFC 7915 section 5.1). */
#define XLAT_MAY_FRAGMENT 1260

struct fraghdr {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in the upper 13 bits; M is the lowest */
	__be32 id;
};
_Static_assert(sizeof(struct fraghdr) == FRAGHDR_LEN, "struct fraghdr");

/* A datagram is summed in chunks of this size, at most this many of them: more than a frame of
 * any link has. */
#define XLAT_CHUNK 256
#define XLAT_CHUNKS 40

/* Working memory while a packet is translated. */
struct xlat_work {
	__u8 ip6[sizeof(struct ipv6hdr)];
	__u8 ip[sizeof(struct iphdr)];
	struct fraghdr frag;
	struct {
		union ip saddr;
		union ip daddr;
		__be32 len;
		__be32 next;
	} pseudo;		    /* RFC 8200 section 8.1 */
	__u8 chunk[XLAT_CHUNK + 4]; /* plus the rest of a word */
};

/* Too big for the stack; bottom halves are off from look-up to use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xlat_work);
} fl_xlat SEC(".maps");

static __always_inline struct xlat_work *xlat_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_xlat, &zero);
}

/* Inserts or removes room behind the IP header. */
static __always_inline int xlat_room(struct __sk_buff *skb, __s32 diff)
{
	if (diff && bpf_skb_adjust_room(skb, diff, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -DROP_NAT_FAILED;
	return 0;
}

/* Changes the protocol of the skb, and its EtherType. This inserts or removes 20 bytes between
 * the headers. GSO and CHECKSUM_PARTIAL keep working: segments keep their size, and the
 * position of the checksum is counted from the start of the buffer. */
static __always_inline int xlat_proto(struct __sk_buff *skb, __be16 proto)
{
	if (bpf_skb_change_proto(skb, proto, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN - sizeof(proto), &proto, sizeof(proto), 0))
		return -DROP_NAT_FAILED;
	return 0;
}

/* Writes the length of layer 4 into a header's field, which excludes (IPv6) or includes (IPv4)
 * the header. Segments too long for the field have 0 there (BIG TCP). */
static __always_inline int xlat_set_len(struct __sk_buff *skb, __u32 len, __be16 *field)
{
	if (len > 0xffff && !skb->gso_size)
		return -DROP_TOO_BIG;
	*field = len > 0xffff ? 0 : bpf_htons(len);
	return 0;
}

/* The length of the data behind the IP headers, from the header, because the frame may be
 * padded. */
static __always_inline int xlat_l4_len(struct __sk_buff *skb, __u32 len, __u32 headers, __u32 *l4)
{
	if (!len && skb->gso_size)
		*l4 = skb->len - L3 - headers;
	else if (len < headers)
		return -DROP_MALFORMED;
	else
		*l4 = len - headers;
	return 0;
}

/* Fills the header's fragmentation fields (RFC 7915 section 5.1.1). */
static __always_inline int xlat_fragment4(struct __sk_buff *skb, const struct pkt *p,
					  struct xlat_work *w)
{
	struct fraghdr *h = &w->frag;
	struct iphdr *ip = (void *)w->ip;
	__u16 offset;

	if (!pkt_is_fragment(p)) {
		if (p->len > XLAT_MAY_FRAGMENT + XLAT_DIFF)
			ip->frag_off = bpf_htons(IP_DF);
		else
			ip->id = bpf_get_prandom_u32();
		return 0;
	}
	/* Other extension headers belong to the whole packet, of which this is a part. */
	if (p->l4 != L3 + sizeof(struct ipv6hdr) + FRAGHDR_LEN ||
	    bpf_skb_load_bytes(skb, L3 + sizeof(struct ipv6hdr), h, sizeof(*h)))
		return -DROP_UNSUPPORTED;
	offset = bpf_ntohs(h->offset);
	ip->frag_off = bpf_htons((offset & FRAGHDR_OFFSET) >> 3 | (offset & FRAGHDR_M ? IP_MF : 0));
	ip->id = bpf_htons(bpf_ntohl(h->id));
	return 0;
}

/* IPv6 to IPv4: RFC 7915 section 5.1. Extension headers are dropped. */
static __always_inline int xlat_to4(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				    struct xlat_work *w)
{
	__u32 headers = p->l4 - L3, l4;
	struct ipv6hdr *ip6 = (void *)w->ip6;
	struct iphdr *ip = (void *)w->ip;
	int err;

	__builtin_memset(ip, 0, sizeof(*ip));
	if (bpf_skb_load_bytes(skb, L3, ip6, sizeof(*ip6)))
		return -DROP_MALFORMED;
	err = xlat_fragment4(skb, p, w);
	if (err)
		return err;
	l4 = bpf_ntohs(ip6->payload_len);
	err = xlat_l4_len(skb, l4 ? l4 + sizeof(*ip6) : 0, headers, &l4);
	if (err)
		return err;
	err = xlat_set_len(skb, sizeof(*ip) + l4, &ip->tot_len);
	if (err)
		return err;
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = ip6->priority << 4 | ip6->flow_lbl[0] >> 4;
	ip->ttl = p->ttl;
	ip->protocol = p->t.proto;
	ip->saddr = to->saddr.w[3];
	ip->daddr = to->daddr.w[3];
	ip->check = ~csum_fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
	err = xlat_room(skb, (__s32)sizeof(*ip6) - (__s32)headers);
	if (err)
		return err;
	err = xlat_proto(skb, bpf_htons(ETH_P_IP));
	if (err)
		return err;
	if (bpf_skb_store_bytes(skb, L3, ip, sizeof(*ip), BPF_F_RECOMPUTE_CSUM))
		return -DROP_NAT_FAILED;
	p->flags |= PKT_IP4;
	p->l4 = L3 + sizeof(*ip);
	return 0;
}

/* IPv4 to IPv6: RFC 7915 section 4.1. Options are dropped. */
static __always_inline int xlat_to6(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				    struct xlat_work *w)
{
	__u32 headers = p->l4 - L3, fragment = pkt_is_fragment(p) ? FRAGHDR_LEN : 0, l4;
	struct ipv6hdr *ip6 = (void *)w->ip6;
	struct iphdr *ip = (void *)w->ip;
	__u16 offset;
	int err;

	__builtin_memset(ip6, 0, sizeof(*ip6));
	if (bpf_skb_load_bytes(skb, L3, ip, sizeof(*ip)))
		return -DROP_MALFORMED;
	err = xlat_l4_len(skb, bpf_ntohs(ip->tot_len), headers, &l4);
	if (err)
		return err;
	err = xlat_set_len(skb, fragment + l4, &ip6->payload_len);
	if (err)
		return err;
	ip6->version = 6;
	ip6->priority = ip->tos >> 4;
	ip6->flow_lbl[0] = ip->tos << 4;
	ip6->nexthdr = fragment ? IPPROTO_FRAGMENT : p->t.proto;
	ip6->hop_limit = p->ttl;
	__builtin_memcpy(&ip6->saddr, &to->saddr, 16);
	__builtin_memcpy(&ip6->daddr, &to->daddr, 16);
	err = xlat_proto(skb, bpf_htons(ETH_P_IPV6));
	if (err)
		return err;
	err = xlat_room(skb, (__s32)(sizeof(*ip) + fragment) - (__s32)headers);
	if (err)
		return err;
	if (bpf_skb_store_bytes(skb, L3, ip6, sizeof(*ip6), BPF_F_RECOMPUTE_CSUM))
		return -DROP_NAT_FAILED;
	if (fragment) {
		offset = bpf_ntohs(ip->frag_off);
		w->frag.next = p->t.proto;
		w->frag.reserved = 0;
		w->frag.offset = bpf_htons((offset & IP_OFFSET) << 3 |
					   (offset & IP_MF ? FRAGHDR_M : 0));
		w->frag.id = bpf_htonl(bpf_ntohs(ip->id));
		if (bpf_skb_store_bytes(skb, L3 + sizeof(*ip6), &w->frag, sizeof(w->frag),
					BPF_F_RECOMPUTE_CSUM))
			return -DROP_NAT_FAILED;
	}
	p->flags &= ~PKT_IP4;
	p->l4 = L3 + sizeof(*ip6) + fragment;
	return 0;
}

/* Computes the checksum of an IPv4 datagram that has none, which IPv6 does not allow (RFC 7915
 * section 4.5; RFC 8200 section 8.1), for the addresses of *to. It does not use bpf_loop, whose
 * callback's frame would exceed the stack. */
static __noinline int xlat_udp_sum(struct __sk_buff *skb, const struct pkt *p,
				   const struct tuple *to)
{
	struct xlat_work *w = xlat_scratch();
	__u32 off = p->l4, left, n, sum;
	__u16 field;

	if (!w)
		return -DROP_NAT_FAILED;
	/* A fragment cannot be summed. */
	if (pkt_is_fragment(p))
		return -DROP_UNSUPPORTED;
	if (bpf_skb_load_bytes(skb, off + offsetof(struct udphdr, len), &field, sizeof(field)))
		return -DROP_MALFORMED;
	left = bpf_ntohs(field);
	w->pseudo.saddr = to->saddr;
	w->pseudo.daddr = to->daddr;
	w->pseudo.len = bpf_htonl(left);
	w->pseudo.next = bpf_htonl(IPPROTO_UDP);
	sum = bpf_csum_diff(0, 0, (__be32 *)&w->pseudo, sizeof(w->pseudo), 0);
	for (int i = 0; i < XLAT_CHUNKS && left; i++) {
		n = left < XLAT_CHUNK ? left : XLAT_CHUNK;
		/* Kernel 6.1 learns no lower bound from a test for 0, but from this, which changes
		 * nothing. */
		barrier_var(n);
		n = ((n - 1) & (XLAT_CHUNK - 1)) + 1;
		if (bpf_skb_load_bytes(skb, off, w->chunk, n))
			return -DROP_MALFORMED;
		__builtin_memset(w->chunk + n, 0, 3);
		sum = bpf_csum_diff(0, 0, (__be32 *)w->chunk, (n + 3) & ~3U, sum);
		off += n;
		left -= n;
	}
	if (left)
		return -DROP_UNSUPPORTED;
	field = ~csum_fold(sum);
	if (!field)
		field = 0xffff;
	return bpf_skb_store_bytes(skb, p->l4 + offsetof(struct udphdr, check), &field,
				   sizeof(field), BPF_F_RECOMPUTE_CSUM) ?
		       -DROP_NAT_FAILED :
		       0;
}

/* Is p a datagram without a checksum? */
static __always_inline bool udp_without_sum(struct __sk_buff *skb, const struct pkt *p)
{
	__u16 sum;

	return p->t.proto == IPPROTO_UDP && !(p->flags & PKT_FRAG_LATER) &&
	       !bpf_skb_load_bytes(skb, p->l4 + offsetof(struct udphdr, check), &sum,
				   sizeof(sum)) &&
	       !sum;
}

/* xlat_headers gives the packet headers of the other family, with the addresses of *to. Its
 * layer 4 is already translated to *to. In p it changes the family, the offset and the length. */
static __noinline int xlat_headers(struct __sk_buff *skb, struct pkt *p, const struct tuple *to)
{
	__u32 len = xlat_len(p, &to->daddr);
	struct xlat_work *w = xlat_scratch();
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	err = p->flags & PKT_IP4 ? xlat_to6(skb, p, to, w) : xlat_to4(skb, p, to, w);
	p->len = len;
	return err;
}
