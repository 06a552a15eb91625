/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* What becomes of a frame from an endpoint or a host port. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "arp.h"
#include "bridge.h"
#include "drop.h"
#include "endpoint.h"
#include "flood.h"
#include "gateway.h"
#include "hostaddr.h"
#include "lan.h"
#include "nd.h"
#include "pkt.h"
#include "router.h"
#include "skb.h"
#include "vlan.h"

/* Is the packet's source address the endpoint's own? Unspecified sources pass where the
 * protocols that need them (DHCP, DAD, MLD) use them: to multicast and broadcast. */
static __always_inline int check_source(struct __sk_buff *skb, const struct endpoint *ep,
					__be16 eth_proto, bool multicast)
{
	struct ipv6hdr *ip6;
	union ip a;

	if (eth_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		if (!have(skb, L3 + sizeof(*ip)))
			return -DROP_MALFORMED;
		ip = DATA(skb, L3);
		if ((void *)(ip + 1) > DATA_END(skb))
			return -DROP_MALFORMED;
		if (ip_is4(&ep->ip4) && ip->saddr == ep->ip4.w[3])
			return 0;
		return !ip->saddr && multicast ? 0 : -DROP_SPOOFED_IP;
	}
	if (!have(skb, L3 + sizeof(*ip6)))
		return -DROP_MALFORMED;
	ip6 = DATA(skb, L3);
	if ((void *)(ip6 + 1) > DATA_END(skb))
		return -DROP_MALFORMED;
	ip_set6(&a, &ip6->saddr);
	if ((!ip_is_zero(&ep->ip6) && ip_equal(&a, &ep->ip6)) || ip_is_eui64(&a, ep->mac))
		return 0;
	return ip_is_zero(&a) && multicast ? 0 : -DROP_SPOOFED_IP;
}

/* Is a frame to a group of members addressed to an IP address of the host that ep may reach
 * only through the gateway, if at all? The host's stack would deliver it (RFC 1122 section
 * 3.3.6 says discard). */
static __noinline bool group_to_host(struct __sk_buff *skb, const struct endpoint *ep,
				     __be16 eth_proto)
{
	union ip dst = {};

	if (eth_proto == bpf_htons(ETH_P_IP)) {
		ip_set4(&dst, 0);
		if (bpf_skb_load_bytes(skb, L3 + 16, &dst.w[3], 4))
			return true;
	} else if (bpf_skb_load_bytes(skb, L3 + 24, &dst, sizeof(dst))) {
		return true;
	}
	if (ip_equal(&dst, &ep->gw4) || ip_equal(&dst, &ep->gw6))
		return false;
	return host_addr(&dst) || ip_is_loopback(&dst);
}

static __always_inline int do_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep)
{
	bool checked = ep->flags & EP_ANTISPOOF && !(ep->flags & EP_HOSTPORT), multicast;
	struct ethhdr eth, *h;
	int verdict;

	if (skb->vlan_present) {
		verdict = vlan_untag(skb);
		if (verdict)
			return verdict;
	}
	if (!have(skb, ETH_HLEN))
		return -DROP_MALFORMED;
	h = DATA(skb, 0);
	if ((void *)(h + 1) > DATA_END(skb))
		return -DROP_MALFORMED;
	eth = *h;
	multicast = eth.h_dest[0] & 1;
	if (checked && !mac_equal(eth.h_source, ep->mac))
		return -DROP_SPOOFED_MAC;

	if (eth.h_proto == bpf_htons(ETH_P_ARP)) {
		verdict = arp_from_endpoint(skb, ep);
		if (verdict != VERDICT_NEXT)
			return verdict;
	} else if (is_ip(eth.h_proto)) {
		if (checked) {
			verdict = check_source(skb, ep, eth.h_proto, multicast);
			if (verdict && (multicast || mac_equal(eth.h_dest, ep->gw_mac) ||
					!routed_inside(skb, ep, eth.h_proto)))
				return verdict;
		}
		if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
			verdict = nd_from_endpoint(skb, ep);
			if (verdict != VERDICT_NEXT)
				return verdict;
		}
		if (!(ep->flags & (EP_HOSTPORT | EP_LAN)) && mac_equal(eth.h_dest, ep->gw_mac))
			return route_from_endpoint(skb, ep, eth.h_proto);
		if (multicast && !(ep->flags & (EP_HOSTPORT | EP_LAN)) &&
		    group_to_host(skb, ep, eth.h_proto))
			return -DROP_MARTIAN;
	} else if (is_vlan(eth.h_proto)) {
		return -DROP_VLAN;
	}
	if (ep->flags & EP_LAN) {
		verdict = lan_from_endpoint(skb, ep);
		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	if (multicast)
		return flood(skb, ep);
	if (ep->flags & EP_PUBLISHED && is_ip(eth.h_proto)) {
		verdict = published_answer(skb, ep, eth.h_proto);
		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	return bridge(skb, ep, &eth);
}
