/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Verdicts: within the programs a function returns a TC_ACT_ code, or -DROP_X for a packet that is
 * refused. VERDICT_NEXT stands for TC_ACT_UNSPEC ("let the next program or the stack see it"),
 * which is itself negative. finish() converts either to the kernel's verdict, in one place, and
 * counts the drop.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "count.h"

/* Why a packet was refused. Append-only and numbered: metrics and users keep
 * the numbers. The name after DROP_, in lower case, is the metric's label. */
enum drop_reason {
	DROP_NONE = 0,
	DROP_MALFORMED = 1,	   /* truncated or inconsistent headers */
	DROP_UNKNOWN_ENDPOINT = 2, /* the device is not (or no longer) an endpoint's */
	DROP_SPOOFED_MAC = 3,
	DROP_SPOOFED_IP = 4,
	DROP_NO_MEMBER = 5, /* unicast to a MAC that no member of the network has */
	DROP_ICC = 6,	    /* member to member where icc=false */
	DROP_ISOLATED = 7,  /* another network's subnet */
	DROP_INTERNAL = 8,  /* out of an internal network */
	DROP_DIRECT = 9,    /* from outside straight to a sandbox's address */
	DROP_LOOPBACK = 10, /* from outside to a loopback address, or from a sandbox */
	DROP_NO_ROUTE = 11,
	DROP_SNAT_EXHAUSTED = 12, /* no free port left to masquerade with */
	DROP_CT_FULL = 13,	  /* the table of flows is full of live ones */
	DROP_FRAG_UNKNOWN = 14,	  /* fragment without a known first nor room to hold it */
	DROP_ENDPOINT_GONE = 15,  /* the flow's endpoint was removed */
	DROP_NAT_FAILED = 16,	  /* the packet could not be rewritten */
	DROP_ARP_UNKNOWN = 17,	  /* ARP or ND for an address that no member has */
	DROP_TTL = 18,		  /* hop limit exceeded on the way to an endpoint */
	DROP_NO_UPLINK_ADDR = 19, /* the uplink has no address to masquerade with */
	DROP_BAD_ICMP = 20,	 /* error about a packet never received; routed link-local ICMPv6 */
	DROP_UNSUPPORTED = 21,	 /* a protocol that cannot be translated */
	DROP_FLOOD = 22,	 /* broadcast or multicast that reached no member */
	DROP_TOO_BIG = 23,	 /* larger than the next hop's MTU; the sender got an ICMP error */
	DROP_ROGUE_RA = 24,	 /* router advertisement from a sandbox */
	DROP_FLOW_LOST = 25,	 /* another flow has the port by now */
	DROP_VLAN = 26,		 /* a VLAN tag behind which the receiver's kernel would look */
	DROP_MARTIAN = 27,	 /* an address that is never routed, or not at this place */
	DROP_TUNNEL_SOURCE = 28, /* from a host that is not a node of the overlay */
	DROP_TUNNEL_MAC = 29,	 /* from a node, with a MAC that is not behind it */
	DROP_CLEAR_TEXT = 30,	 /* of an encrypted network, and not encrypted */
	DROP_TUNNEL_ECN = 31,	 /* marked as congested, and its sender cannot know (RFC 6040) */
	DROP_TUNNEL_FRAGMENT = 32, /* the outer packet is a fragment */
	DROP_NO_NODE = 33,	   /* to a node to which there is no route */
	DROP_TUNNEL_FAILED = 34,   /* the packet could not be encapsulated or decapsulated */
	DROP_NO_BACKEND = 35,	   /* the service has no backend */
	DROP_NOT_TUNNEL = 36,	   /* arrived by the device that encrypts, outside of a tunnel */
	DROP_PUBLISH_FROM = 37,	   /* the published port is not for this client */
	DROP_NO_GATEWAY = 38,	   /* its network's router, which is a member, is not there */
	DROP_REASON_MAX,
};

#define VERDICT_NEXT 0x100

/* The packet is for via_send (via.h). Below 0, so that a packet that is forwarded is not compared
 * with it. */
#define VERDICT_NODE (-0x100)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASON_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_drops SEC(".maps");

static __always_inline int finish(struct __sk_buff *skb, int verdict)
{
	if (verdict < 0) {
		count(&fl_drops, -verdict, skb->len);
		return TC_ACT_SHOT;
	}
	if (verdict != VERDICT_NEXT)
		return verdict;
	count_path(skb, PATH_PASS);
	return TC_ACT_UNSPEC;
}
