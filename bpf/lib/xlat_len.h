/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Does translation change the family of a packet, and what does that do to its length? */

#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "pkt.h"

#define FRAGHDR_LEN 8 /* RFC 8200 section 4.5 */
#define FRAGHDR_OFFSET 0xfff8
#define FRAGHDR_M 1

/* By how much an IPv6 packet is longer than the same packet of IPv4. */
#define XLAT_DIFF (sizeof(struct ipv6hdr) - sizeof(struct iphdr))

/* Does translation to *to change the packet's family? */
static __always_inline bool xlat_needed(const struct pkt *p, const union ip *to)
{
	return !(p->flags & PKT_IP4) == ip_is4(to);
}

/* The length of packet p (see struct pkt) after translation to *daddr. */
static __always_inline __u32 xlat_len(const struct pkt *p, const union ip *daddr)
{
	__u32 l4 = p->len - (p->l4 - L3), fragment = pkt_is_fragment(p) ? FRAGHDR_LEN : 0;

	if (!xlat_needed(p, daddr))
		return p->len;
	return p->flags & PKT_IP4 ? sizeof(struct ipv6hdr) + fragment + l4 :
				    sizeof(struct iphdr) + l4;
}
