//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The tc programs. from_ and to_ are directions as the host sees them:
 *
 *   from_endpoint  tc ingress of an endpoint's host end and of the datapath's end of a host port
 *   to_uplink      tc egress of an uplink
 *   from_uplink    tc ingress of an uplink
 *
 * docs/datapath.md describes the path of a packet through them.
 */

#include "lib/hostflow.h"
#include "lib/frag.h"
#include "lib/nd.h"
#include "lib/netfilter.h"
#include "lib/route.h"
#include "lib/vlan.h"

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

/* Updates known flow e, whose other end is a sandbox, for packet p and copies its translation
 * to *to and its endpoint to *out_if. They are copied because confirming the flow frees the
 * entry. Returns 0 or -DROP_X. */
static __always_inline int known_hit(const struct pkt *p, struct ct_entry *e, bool confirmed,
				     struct tuple *to, __u32 *out_if)
{
	*to = e->xlat;
	*out_if = e->out_if;
	return ct_hit(p, e, confirmed);
}

/* Handles a packet of a known flow whose other end is the host's stack or beyond it. */
static __always_inline int known_to_stack(struct __sk_buff *skb, struct pkt *p, struct ct_entry *e,
					  bool confirmed)
{
	struct tuple to = e->xlat;
	int err = ct_hit(p, e, confirmed);

	if (err)
		return err;
	err = nat_rewrite(skb, p, &to);
	return err ? err : VERDICT_NEXT;
}

/* Handles a backend's reply to a client of its own network that used a published address. The
 * reply must be translated, although it is addressed to a member. */
__noinline int published_answer(struct __sk_buff *skb, __be16 eth_proto)
{
	struct ct_entry *e;
	struct tuple to;
	bool confirmed;
	__u32 out_if;
	struct pkt p;
	int err;

	err = frag_follow(skb, &p, parse(skb, &p, eth_proto));
	if (err == TC_ACT_SHOT || err == -DROP_NAT_FAILED)
		return err;
	if (err || p.flags & (PKT_ICMP_ERROR | PKT_ICMP_LOCAL))
		return VERDICT_NEXT;
	e = ct_find(&p.t, &confirmed);
	if (!e || e->in_if != skb->ifindex || !e->out_if || p.ttl <= 1)
		return VERDICT_NEXT;
	err = known_hit(&p, e, confirmed, &to, &out_if);
	return err ? err : route_to_sandbox(skb, &p, &to, out_if);
}

/* Bridges a frame to the MAC of a member; an unknown MAC is refused. */
static __always_inline int bridge(struct __sk_buff *skb, const struct endpoint *ep,
				  const struct ethhdr *eth)
{
	struct fdb_key k = { .net = ep->net };
	struct fdb_entry *dst;

	__builtin_memcpy(k.mac, eth->h_dest, ETH_ALEN);
	dst = bpf_map_lookup_elem(&fl_fdb, &k);
	if (!dst || dst->ifindex == skb->ifindex)
		return -DROP_NO_MEMBER;
	if (dst->flags & EP_HOSTPORT)
		return to_host_port(skb, dst->ifindex, ep->net, PATH_REDIRECT);
	if (!(ep->flags & (EP_ICC | EP_HOSTPORT)))
		return -DROP_ICC;
	if (ep->flags & EP_HOSTPORT && dst->flags & EP_PUBLISHED && is_ip(eth->h_proto) &&
	    gateway_port(skb, eth->h_proto)) {
		int verdict = host_to_member(skb, eth->h_proto, ep->net, dst->ifindex);

		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	return to_sandbox(skb, dst->ifindex, ep->net, dst->flags);
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
			if (verdict)
				return verdict;
		}
		if (eth.h_proto == bpf_htons(ETH_P_IPV6)) {
			verdict = nd_from_endpoint(skb, ep);
			if (verdict != VERDICT_NEXT)
				return verdict;
		}
		if (!(ep->flags & EP_HOSTPORT) && mac_equal(eth.h_dest, ep->gw_mac))
			return route_from_endpoint(skb, ep, eth.h_proto);
		if (multicast && !(ep->flags & EP_HOSTPORT) && group_to_host(skb, ep, eth.h_proto))
			return -DROP_MARTIAN;
	} else if (is_vlan(eth.h_proto)) {
		return -DROP_VLAN;
	}
	if (multicast)
		return flood(skb, ep);
	if (ep->flags & EP_PUBLISHED && is_ip(eth.h_proto)) {
		verdict = published_answer(skb, eth.h_proto);
		if (verdict != VERDICT_NEXT)
			return verdict;
	}
	return bridge(skb, ep, &eth);
}

SEC("tc")
int from_endpoint(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *ep = bpf_map_lookup_elem(&fl_endpoint, &ifindex);

	if (!flood_done(skb))
		count_traffic(ep ? ep->net : NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	if (!ep)
		return flood_done(skb) ? TC_ACT_SHOT : finish(skb, -DROP_UNKNOWN_ENDPOINT);
	return finish(skb, do_from_endpoint(skb, ep));
}

/* The address to masquerade with. It is the one that from_endpoint would choose, so that a flow
 * keeps it on either path. */
static __always_inline void masquerade_source(struct __sk_buff *skb, const struct pkt *p,
					      const struct endpoint *ep, const struct uplink *up,
					      union ip *src)
{
	struct next_hop *hop;

	*src = p->flags & PKT_IP4 ? up->ip4 : up->ip6;
	if (cfg_fib_src && route_find(skb, p, &p->t, ep->gateway_if, true, &hop) == ROUTE_OK &&
	    hop->ifindex == skb->ifindex)
		*src = hop->src;
}

/* Marks a packet that was translated here, so that lower devices of this uplink do not
 * translate it again. */
static __always_inline void translated_above(struct __sk_buff *skb, const struct uplink *up)
{
	__u32 below = up->flags / UP_BELOW;

	if (below)
		skb->mark = cfg_mark + below - 1;
}

/* Did an uplink above this one, or from_endpoint, translate the packet? */
static __always_inline bool is_translated(struct __sk_buff *skb)
{
	__u32 below = skb->mark - cfg_mark;

	if (below > UP_BELOW_MAX)
		return false;
	skb->mark = below ? skb->mark - 1 : 0;
	return true;
}

/* Creates the prepared flow of a packet that the stack routed to this uplink. */
static __always_inline int flow_from_stack(struct __sk_buff *skb, struct pkt *p, struct flow *f,
					   const struct uplink *up)
{
	int err = flow_create(skb, p);

	if (err)
		return err;
	err = nat_rewrite(skb, p, &f->e.xlat);
	if (err)
		return err;
	translated_above(skb, up);
	return VERDICT_NEXT;
}

/* Masquerades a packet from endpoint ep that the stack routed to this uplink. */
static __always_inline int masquerade_from_stack(struct __sk_buff *skb, struct pkt *p,
						 const struct endpoint *ep, __u32 ep_if,
						 const struct uplink *up)
{
	bool host = ep->flags & EP_HOSTPORT;
	struct flow *f = flow_prepare(p, ep->net, host ? 0 : ep_if, 0);
	union ip src;

	if (!f)
		return -DROP_CT_FULL;
	if (ep->flags & EP_INTERNAL)
		return -DROP_INTERNAL;
	if (!host && (up->flags & UP_STACK || nf_translates(skb, &p->t))) {
		/* A port that Docker publishes for its own networks, or one of its containers
		 * itself. Netfilter masquerades it, too: where it sees bridged packets, it sees
		 * the reply before from_uplink does. */
		f->e.flags = CT_F_STACK;
		return flow_from_stack(skb, p, f, up);
	}
	if (ep->flags & EP_MASQUERADE) {
		masquerade_source(skb, p, ep, up, &src);
		if (ip_is_zero(&src))
			return -DROP_NO_UPLINK_ADDR;
		flow_masquerade(f, &src);
	}
	/* The host itself sends from a gateway address, so the reply is for its stack. */
	if (host)
		f->e.flags = CT_F_HOST;
	return flow_from_stack(skb, p, f, up);
}

/* If the replies to a flow of the host would match a masqueraded flow, changes the source port
 * of the host's flow. */
static __always_inline int avoid_collision(struct __sk_buff *skb, struct pkt *p,
					   const struct uplink *up)
{
	struct flow *f;
	struct tuple answer;
	bool confirmed;

	tuple_reverse(&answer, &p->t);
	if (!ct_find(&answer, &confirmed))
		return VERDICT_NEXT;
	f = flow_prepare(p, 0, 0, 0);
	if (!f)
		return -DROP_CT_FULL;
	f->e.flags = CT_F_HOST;
	f->host_src = 1;
	return flow_from_stack(skb, p, f, up);
}

/* A packet that cannot be translated may leave if the host sent it. A sandbox's would leave
 * with a source address that nothing outside can reply to. */
static __always_inline int pass_unless_sandbox(const struct pkt *p, const struct uplink *up,
					       int refusal)
{
	const union ip *src = &p->t.saddr;

	if (ip_equal(src, &up->ip4) || ip_equal(src, &up->ip6) || !subnet_of(src) || host_addr(src))
		return VERDICT_NEXT;
	return refusal;
}

/* Handles an ICMP error that the stack sends. The host's own may be about a reply to a flow
 * that left with another source (avoid_collision, masquerade_from_stack). */
static __noinline int icmp_error_leaves(struct __sk_buff *skb, struct pkt *p,
					const struct uplink *up)
{
	struct icmp_work *w = icmp_scratch();
	struct ct_entry *e;
	int err;

	if (!w || icmp_related(skb, p, 0, w, &e) || !e)
		return pass_unless_sandbox(p, up, -DROP_BAD_ICMP);
	err = nat_rewrite(skb, p, &w->to);
	if (err)
		return err;
	translated_above(skb, up);
	return VERDICT_NEXT;
}

/* Is e a flow masqueraded with an address that this uplink would not choose, because the route
 * moved here? Replies to the old address would not come back (route_known does the same). */
static __always_inline bool route_moved(struct __sk_buff *skb, const struct pkt *p,
					const struct ct_entry *e, const struct uplink *up)
{
	const union ip *old = &e->xlat.saddr;
	__u32 in_if = e->in_if;
	struct endpoint *ep;
	union ip src;

	if ((e->flags & (CT_F_NAT_SRC | CT_F_REPLY | CT_F_HOST)) != CT_F_NAT_SRC)
		return false;
	if (ip_equal(old, &up->ip4) || ip_equal(old, &up->ip6))
		return false;
	ep = bpf_map_lookup_elem(&fl_endpoint, &in_if);
	if (!ep)
		return false;
	masquerade_source(skb, p, ep, up, &src);
	/* The uplink may have no address for the moment, because its device is down; it may
	 * come back. */
	return !ip_is_zero(&src) && !ip_equal(old, &src);
}

static __always_inline int do_to_uplink(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, net;
	struct neigh_entry *n;
	struct endpoint *ep;
	struct ct_entry *e;
	struct uplink *up;
	bool confirmed;
	struct pkt p;
	int err;

	up = bpf_map_lookup_elem(&fl_uplink, &ifindex);
	if (!up || !is_ip(skb->protocol))
		return VERDICT_NEXT;
	err = parse(skb, &p, skb->protocol);
	if (err)
		return pass_unless_sandbox(&p, up, err);
	frag_remember(&p); /* the stack sends them in order */
	if (p.flags & PKT_ICMP_LOCAL)
		return pass_unless_sandbox(&p, up, -DROP_BAD_ICMP);
	if (p.flags & PKT_ICMP_ERROR)
		return icmp_error_leaves(skb, &p, up);
	e = ct_find(&p.t, &confirmed);
	if (e) {
		if (!route_moved(skb, &p, e, up)) {
			err = known_to_stack(skb, &p, e, confirmed);
			if (err == VERDICT_NEXT)
				translated_above(skb, up);
			return err;
		}
		flow_forget(&p.t, &e->xlat);
	}
	if (ip_equal(&p.t.saddr, &up->ip4) || ip_equal(&p.t.saddr, &up->ip6))
		return avoid_collision(skb, &p, up);
	net = subnet_of(&p.t.saddr);
	if (!net)
		return avoid_collision(skb, &p, up);
	if (!neigh_find(&p.t.saddr, net, &n))
		return -DROP_ENDPOINT_GONE;
	ifindex = n->ifindex;
	ep = bpf_map_lookup_elem(&fl_endpoint, &ifindex);
	if (!ep)
		return -DROP_ENDPOINT_GONE;
	return masquerade_from_stack(skb, &p, ep, ifindex, up);
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	if (is_translated(skb))
		return TC_ACT_UNSPEC; /* counted at its endpoint or at the uplink above */
	count_traffic(NET_UPLINKS, DIR_TO_ENDPOINT, skb->len);
	/* A tagged packet left through a VLAN device, which is an uplink of its own. */
	if (skb->vlan_present)
		return finish(skb, VERDICT_NEXT);
	return finish(skb, do_to_uplink(skb));
}

/* Is it a source address that no packet from outside may have? The datapath bypasses the
 * stack's own check for martians. */
static __always_inline bool is_martian_source(const union ip *src)
{
	return ip_is_loopback(src) || ip_is_unspecified(src) || ip_is_multicast(src);
}

/* Marks an ICMP error that icmp_refuse sends from an uplink. The error embeds the packet as it was
 * on the wire: to_uplink must not translate it like one of the stack, which embeds the packet
 * after translation. It is accounted with the packet that it is about. */
static __always_inline int uplink_error(struct __sk_buff *skb, const struct uplink *up, int verdict,
					int refusal)
{
	if (verdict == refusal || !up)
		return verdict;
	skb->mark = cfg_mark + up->flags / UP_BELOW; /* as in to_next_hop */
	return verdict;
}

/* Sends an ICMP error to the sender of packet p, outside the host. Its source is the uplink's
 * address or, if the uplink has none, the destination of p, as a router would choose it (RFC
 * 1812 section 4.3.2.4). */
static __always_inline int uplink_tell(struct __sk_buff *skb, const struct pkt *p, __u32 kind,
				       __u32 mtu, int refusal)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *up = bpf_map_lookup_elem(&fl_uplink, &ifindex);
	const union ip *src = &p->t.daddr;

	if (p->flags & (PKT_ICMP_ERROR | PKT_FRAG_LATER) || !icmp_may_send())
		return refusal;
	if (up && p->flags & PKT_IP4 && !ip_is_zero(&up->ip4))
		src = &up->ip4;
	else if (up && !(p->flags & PKT_IP4) && !ip_is_zero(&up->ip6))
		src = &up->ip6;
	return uplink_error(skb, up, icmp_refuse(skb, p, src, kind, mtu, refusal), refusal);
}

static __always_inline int uplink_ttl_exceeded(struct __sk_buff *skb, const struct pkt *p)
{
	return uplink_tell(skb, p, icmp_time_exceeded(p), 0, -DROP_TTL);
}

/* Routes packet p from outside, translated to *to, into the sandbox of endpoint ifindex, unless it
 * is too big for that. Global, so that it is verified once. */
__noinline int uplink_to_sandbox(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				 __u32 ifindex)
{
	struct endpoint *ep;
	__u32 kind, mtu;

	if (!p || !to)
		return -DROP_NAT_FAILED;
	ep = bpf_map_lookup_elem(&fl_endpoint, &ifindex);
	if (!ep)
		return -DROP_ENDPOINT_GONE;
	if (!(p->flags & PKT_DF) || !ep->mtu || xlat_len(p, &to->daddr) <= ep->mtu)
		return route_to_endpoint(skb, p, to, ep, ifindex);
	mtu = ep->mtu - (xlat_len(p, &to->daddr) - p->len); /* as the sender counts it */
	kind = p->flags & PKT_IP4 ? ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED) :
				    ICMP_KIND(ICMPV6_PKT_TOOBIG, 0);
	return uplink_tell(skb, p, kind, mtu, -DROP_TOO_BIG);
}

/* Begins a flow from outside to publish b. */
static __always_inline int uplink_published(struct __sk_buff *skb, struct pkt *p,
					    const struct publish *b)
{
	struct flow *f;
	int err;

	if (ip_is_loopback(&p->t.daddr))
		return -DROP_LOOPBACK; /* published only for processes on the host */
	if (is_martian_source(&p->t.saddr) || subnet_of(&p->t.saddr) || host_addr(&p->t.saddr))
		return -DROP_SPOOFED_IP;
	if (ip_is_linklocal6(&p->t.saddr))
		return -DROP_MARTIAN; /* the answer could not be routed (RFC 4291 section 2.5.6) */
	if (p->ttl <= 1)
		return uplink_ttl_exceeded(skb, p);
	f = flow_prepare(p, b->net, 0, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_publish(f, b, false);
	if (!err)
		err = flow_create(skb, p);
	if (err)
		return err;
	return uplink_to_sandbox(skb, p, &f->e.xlat, b->ifindex);
}

/* Begins a flow of packet p from outside to the host at the gateway's address of network net.
 * The reply must not be masqueraded like flows that the host begins from that address, so the
 * flow needs an entry. */
static __always_inline int uplink_to_gateway(struct __sk_buff *skb, struct pkt *p, __u32 net)
{
	const union ip *src = &p->t.saddr;
	struct flow *f;
	int err;

	if (is_martian_source(src) || ip_is_linklocal6(src) || subnet_of(src) || host_addr(src))
		return VERDICT_NEXT; /* replies to these sources do not leave by an uplink */
	f = flow_prepare(p, net, 0, 0);
	if (!f)
		return VERDICT_NEXT;
	f->e.flags = CT_F_HOST;
	if (flow_create(skb, p))
		return VERDICT_NEXT; /* the host may still accept it */
	err = nat_rewrite(skb, p, &f->e.xlat);
	return err ? err : VERDICT_NEXT;
}

/* Is e the entry of the original direction of such a flow? */
static __always_inline bool begun_to_host(const struct ct_entry *e)
{
	return (e->flags & (CT_F_HOST | CT_F_REPLY)) == CT_F_HOST;
}

/* Leaves a packet to the stack, unless it is addressed directly to a sandbox or to the
 * loopback. begins: it may begin a flow. */
static __always_inline int uplink_to_host(struct __sk_buff *skb, struct pkt *p, bool begins)
{
	__u32 ifindex = skb->ifindex, net;
	struct uplink *up = bpf_map_lookup_elem(&fl_uplink, &ifindex);

	/* Usually it is for the uplink's own address; that check is cheaper than a lookup. */
	if (up && (ip_equal(&p->t.daddr, &up->ip4) || ip_equal(&p->t.daddr, &up->ip6)))
		return VERDICT_NEXT;
	if (ip_is_loopback(&p->t.daddr))
		return -DROP_LOOPBACK;
	net = subnet_of(&p->t.daddr);
	if (!net)
		return VERDICT_NEXT;
	if (!host_addr(&p->t.daddr))
		return -DROP_DIRECT;
	return begins ? uplink_to_gateway(skb, p, net) : VERDICT_NEXT;
}

/* Handles a packet of no known flow that arrived for the host. */
static __noinline int uplink_new(struct __sk_buff *skb, struct pkt *p)
{
	/* A packet that is not for the host is in transit, whatever ports are published. */
	if (publish_may_begin(p) && host_addr(&p->t.daddr)) {
		struct publish *b = publish_find(&p->t.daddr, p->t.dport, p->t.proto);

		if (b && !(p->t.proto == IPPROTO_UDP && host_connected(skb, &p->t)))
			return uplink_published(skb, p, b);
	}
	return uplink_to_host(skb, p, true);
}

/* Handles an ICMP error that arrived for the host. */
static __noinline int uplink_icmp_error(struct __sk_buff *skb, struct pkt *p)
{
	struct icmp_work *w = icmp_scratch();
	struct ct_entry *e;
	int err;

	if (!w || icmp_related(skb, p, 0, w, &e) || !e)
		return uplink_to_host(skb, p, false);
	if (icmp_redirects(p))
		return -DROP_BAD_ICMP;
	if (e->out_if && !(e->flags & CT_F_STACK))
		return p->ttl > 1 ? route_to_sandbox(skb, p, &w->to, e->out_if) : -DROP_TTL;
	err = nat_rewrite(skb, p, &w->to);
	return err ? err : VERDICT_NEXT;
}

static __always_inline int do_from_uplink(struct __sk_buff *skb)
{
	struct ct_entry *e;
	struct tuple to;
	bool confirmed;
	__u32 out_if;
	struct pkt p;
	int err;

	/* PACKET_HOST only: the stack handles the rest. */
	if (skb->pkt_type != 0)
		return VERDICT_NEXT;
	if (skb->vlan_present) {
		if (vlan_id(skb))
			return VERDICT_NEXT; /* for a VLAN device, if any */
		err = vlan_untag(skb);
		if (err)
			return err;
	}
	if (!is_ip(skb->protocol))
		return is_vlan(skb->protocol) ? -DROP_VLAN : VERDICT_NEXT;
	err = parse(skb, &p, skb->protocol);
	if (err == -DROP_MARTIAN)
		return err;
	if (p.flags & (PKT_FRAG_FIRST | PKT_FRAG_LATER) && host_addr(&p.t.daddr)) {
		err = frag_follow(skb, &p, err);
		if (err == TC_ACT_SHOT || err == -DROP_NAT_FAILED)
			return err;
	}
	/* The stack refuses a packet that cannot be parsed, but it must not reach a sandbox. */
	if (err || p.flags & PKT_ICMP_LOCAL)
		return uplink_to_host(skb, &p, false);
	if (p.flags & PKT_ICMP_ERROR)
		return uplink_icmp_error(skb, &p);
	e = ct_find(&p.t, &confirmed);
	if (!e || e->in_if)
		return uplink_new(skb, &p);
	if (begun_to_host(e) && publish_may_begin(&p)) {
		/* The host had the flow before the port was published, or the flow got no
		 * further. */
		flow_forget(&p.t, &e->xlat);
		return uplink_new(skb, &p);
	}
	if (!e->out_if || e->flags & CT_F_STACK)
		return known_to_stack(skb, &p, e, confirmed);
	if (p.ttl <= 1)
		return uplink_ttl_exceeded(skb, &p);
	err = known_hit(&p, e, confirmed, &to, &out_if);
	return err ? err : uplink_to_sandbox(skb, &p, &to, out_if);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	count_traffic(NET_UPLINKS, DIR_FROM_ENDPOINT, skb->len);
	return finish(skb, do_from_uplink(skb));
}

/* Keep these types in the object's BTF, from which bpf2go generates the Go constants. */
enum drop_reason *unused_drop_reason __attribute__((unused));
enum fwd_path *unused_fwd_path __attribute__((unused));
enum ct_event *unused_ct_event __attribute__((unused));
enum ct_state *unused_ct_state __attribute__((unused));
enum ct_flag *unused_ct_flag __attribute__((unused));
enum ep_flag *unused_ep_flag __attribute__((unused));
enum up_flag *unused_up_flag __attribute__((unused));
enum direction *unused_direction __attribute__((unused));

char _license[] SEC("license") = "Dual BSD/GPL";
