/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* ARP (RFC 826), answered in the program for every member of the network. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "count.h"
#include "drop.h"
#include "endpoint.h"
#include "neigh.h"

/* <linux/if_arp.h> includes the C library. */
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2

struct arp_eth {
	__be16 htype;
	__be16 ptype;
	__u8 hlen;
	__u8 plen;
	__be16 op;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
};
_Static_assert(sizeof(struct arp_eth) == 28, "struct arp_eth");

static __always_inline int arp_answer(struct __sk_buff *skb, struct arp_eth *q,
				      const struct neigh_entry *n)
{
	struct arp_eth a = *q;
	struct {
		__u8 dst[6];
		__u8 src[6];
	} macs;

	__builtin_memcpy(macs.dst, q->sha, 6);
	__builtin_memcpy(macs.src, n->mac, 6);
	a.op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(a.tha, q->sha, 6);
	__builtin_memcpy(a.tpa, q->spa, 4);
	__builtin_memcpy(a.sha, n->mac, 6);
	__builtin_memcpy(a.spa, q->tpa, 4);
	if (bpf_skb_store_bytes(skb, 0, &macs, sizeof(macs), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &a, sizeof(a), 0))
		return -DROP_NAT_FAILED;
	count_path(skb, PATH_REPLY);
	return bpf_redirect(skb->ifindex, 0);
}

/* Handles an ARP packet from endpoint ep. VERDICT_NEXT: forward it like any other frame. */
__noinline int arp_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep)
{
	static const __u8 zero[4];
	struct neigh_entry *n;
	struct arp_eth q;
	union ip target;
	__be32 spa, tpa;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &q, sizeof(q)) || q.hlen != 6 || q.plen != 4)
		return -DROP_MALFORMED;
	__builtin_memcpy(&spa, q.spa, 4);
	__builtin_memcpy(&tpa, q.tpa, 4);
	if (ep->flags & EP_ANTISPOOF && !(ep->flags & EP_HOSTPORT)) {
		if (!mac_equal(q.sha, ep->mac))
			return -DROP_SPOOFED_MAC;
		if (spa && (!ip_is4(&ep->ip4) || spa != ep->ip4.w[3]))
			return -DROP_SPOOFED_IP;
	}
	/* Probes and announcements (RFC 5227) must reach the members. */
	if (q.op != bpf_htons(ARPOP_REQUEST) || !__builtin_memcmp(q.spa, zero, 4) || spa == tpa)
		return VERDICT_NEXT;
	ip_set4(&target, tpa);
	if (neigh_find(&target, ep->net, &n))
		return arp_answer(skb, &q, n);
	/* Where sources are checked no member can have the address: forwarding the request to a
	 * thousand members would only cost CPU time. */
	return (ep->flags & (EP_ANTISPOOF | EP_LAN)) == EP_ANTISPOOF ? -DROP_ARP_UNKNOWN :
								       VERDICT_NEXT;
}
