//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The tc programs. from_ and to_ are directions as the host sees them:
 *
 *   from_endpoint  tc ingress of an endpoint's host end and of the datapath's end of a host port
 *   to_uplink      tc egress of an uplink
 *   from_uplink    tc ingress of an uplink
 *   from_tunnel    tc ingress of the device that encrypts what nodes send to each other
 *
 * docs/datapath.md describes the path of a packet through them.
 */

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "lib/arrival.h"
#include "lib/cached.h"
#include "lib/config.h"
#include "lib/count.h"
#include "lib/ct.h"
#include "lib/decision.h"
#include "lib/drop.h"
#include "lib/endpoint.h"
#include "lib/flood.h"
#include "lib/from_endpoint.h"
#include "lib/from_uplink.h"
#include "lib/inner.h"
#include "lib/lan.h"
#include "lib/node.h"
#include "lib/service.h"
#include "lib/subnet.h"
#include "lib/to_uplink.h"
#include "lib/tunnel.h"
#include "lib/tunnel_in.h"
#include "lib/uplink.h"
#include "lib/via.h"
#include "lib/vni.h"

SEC("tc")
int from_endpoint(struct __sk_buff *skb)
{
	bool again = tunnel_marked(skb);
	struct endpoint *ep;
	int verdict;

	if (!again) {
		verdict = cached_from_endpoint(skb);
		if (verdict != VERDICT_SLOW)
			return verdict;
	}
	ep = endpoint_find(skb->ifindex);
	if (again)
		return ep ? finish(skb, tunnel_continue(skb, ep)) : TC_ACT_SHOT;
	if (!flood_done(skb))
		count_traffic(ep ? ep->net : NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	if (!ep)
		return flood_done(skb) ? TC_ACT_SHOT : finish(skb, -DROP_UNKNOWN_ENDPOINT);
	verdict = do_from_endpoint(skb, ep);
	if (verdict < 0 && cfg_vxlan_port && verdict == VERDICT_NODE)
		verdict = via_send(skb, ep);
	return finish(skb, verdict);
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	struct uplink *up;
	bool lan = false;
	int verdict;

	if (is_translated(skb, &lan)) /* counted at its endpoint or at the uplink above */
		return lan ? lan_translated(skb) : TC_ACT_UNSPEC;
	count_traffic(NET_UPLINKS, DIR_TO_ENDPOINT, skb->len);
	/* A tagged packet left through a VLAN device, which is an uplink of its own. */
	if (skb->vlan_present)
		return finish(skb, VERDICT_NEXT);
	up = uplink_find(skb->ifindex);
	verdict = do_to_uplink(skb, up);
	if (verdict == VERDICT_NEXT && up && up->flags & UP_LAN)
		verdict = lan_to_uplink(skb);
	return finish(skb, verdict);
}

/* What remains to be done with a packet that may have arrived in a tunnel. */
static __always_inline int finish_arrived(struct __sk_buff *skb, int verdict)
{
	if (verdict < 0 && cfg_vxlan_port) {
		if (verdict == VERDICT_INNER)
			verdict = tunnel_inner(skb);
		else if (verdict == VERDICT_GROUP)
			verdict = tunnel_group(skb);
		if (verdict == VERDICT_NODE)
			verdict = via_send(skb, NULL);
	}
	return finish(skb, verdict);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	int verdict = cached_from_uplink(skb);

	if (verdict != VERDICT_SLOW)
		return verdict;
	/* Only PACKET_HOST is for the host. Of the rest the host's networks may have the receiver. */
	if (skb->pkt_type != 0)
		return finish(skb, lan_from_uplink(skb));
	count_traffic(NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	return finish_arrived(skb, do_from_uplink(skb));
}

/* The packet counted as traffic when it arrived at an uplink, too: encrypted, and passed. */
SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	count_traffic(NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	if (!cfg_vxlan_port)
		return finish(skb, VERDICT_NEXT);
	return finish_arrived(skb, do_from_tunnel(skb));
}

/* Keep these types in the object's BTF, from which bpf2go generates the Go constants. */
enum drop_reason *unused_drop_reason __attribute__((unused));
enum fwd_path *unused_fwd_path __attribute__((unused));
enum ct_event *unused_ct_event __attribute__((unused));
enum ct_state *unused_ct_state __attribute__((unused));
enum ct_flag *unused_ct_flag __attribute__((unused));
enum ep_flag *unused_ep_flag __attribute__((unused));
enum up_flag *unused_up_flag __attribute__((unused));
enum node_flag *unused_node_flag __attribute__((unused));
enum tunnel_flag *unused_tunnel_flag __attribute__((unused));
enum direction *unused_direction __attribute__((unused));
enum service_flag *unused_service_flag __attribute__((unused));
enum subnet_flag *unused_subnet_flag __attribute__((unused));

char _license[] SEC("license") = "Dual BSD/GPL";
