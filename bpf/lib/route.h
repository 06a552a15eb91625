/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Routing out of the host, by the kernel's own table. */

#include "frag.h"
#include "publish.h"
#include "xlat_icmp.h"

#ifndef BPF_FIB_LOOKUP_SKIP_NEIGH
#define BPF_FIB_LOOKUP_SKIP_NEIGH (1U << 2) /* 6.3 */
#endif
#ifndef BPF_FIB_LOOKUP_SRC
#define BPF_FIB_LOOKUP_SRC (1U << 4) /* 6.7, kernel commit dab4e1f06cab */
#endif

struct next_hop {
	union ip src; /* the route's preferred source address */
	struct bpf_redir_neigh nh;
	__u32 ifindex;
	__u32 mtu;	/* in bytes; 0: not known */
	__u32 up_flags; /* of the uplink */
};

/*
 * The result of a route lookup, cached for the packets that follow: the lookup is the most
 * expensive part of a packet, and the result hardly ever changes. It is repeated in each tick, so
 * that a changed route, address or uplink takes effect within a fraction of a second. The key
 * holds all that a routing rule can match (ports, the source).
 */
struct route_key {
	struct tuple t;
	__u32 iif;
	__u32 prefer;
};

struct route_slot {
	struct route_key key;
	__u32 tick; /* when it was looked up */
	__u32 pad;
	struct next_hop hop;
};

#define ROUTE_SLOTS_SHIFT 10
#define ROUTE_SLOTS (1 << ROUTE_SLOTS_SHIFT)
#define ROUTE_TICK_SHIFT 26 /* a tick is 2^26 ns: 67 ms */

/* One per processor; bottom halves are off from lookup to use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ROUTE_SLOTS);
	__type(key, __u32);
	__type(value, struct route_slot);
} fl_route SEC(".maps");

enum route_result {
	ROUTE_OK,
	ROUTE_STACK,   /* BPF cannot send it: local, multicast, unreachable, other kind of device */
	ROUTE_TOO_BIG, /* next_hop->mtu says how big it may be */
};

/* The cache slot for a packet: any function of its key will do that differs where flows do. */
static __always_inline struct route_slot *route_slot(const struct tuple *t, bool prefer)
{
	__u64 h = (t->saddr.d[1] ^ t->daddr.d[1] ^ ((__u64)t->sport << 32 | t->dport)) + prefer;
	__u32 i;

	h *= 0x9e3779b97f4a7c15ULL;	   /* 2^64 over the golden ratio */
	i = h >> (64 - ROUTE_SLOTS_SHIFT); /* the bits that depend on all of the key */
	return bpf_map_lookup_elem(&fl_route, &i);
}

static __always_inline bool route_key_is(const struct route_key *k, const struct tuple *t,
					 __u32 iif, bool prefer)
{
	return tuple_equal(&k->t, t) && k->iif == iif && k->prefer == prefer;
}

/* Looks up the kernel's route for a packet of len bytes with key k. */
static __noinline enum route_result route_ask(struct __sk_buff *skb, const struct route_key *k,
					      __u32 len, bool is4, struct next_hop *out)
{
	struct bpf_fib_lookup fib = {};
	struct uplink *up;
	__u32 flags = 0;
	long err;

	fib.ifindex = k->iif;
	fib.tot_len = len > 0xffff ? 0xffff : len;
	fib.l4_protocol = k->t.proto;
	fib.sport = k->t.sport;
	fib.dport = k->t.dport;
	if (is4) {
		fib.family = 2; /* AF_INET */
		fib.ipv4_src = k->t.saddr.w[3];
		fib.ipv4_dst = k->t.daddr.w[3];
	} else {
		fib.family = 10; /* AF_INET6 */
		__builtin_memcpy(fib.ipv6_src, &k->t.saddr, 16);
		__builtin_memcpy(fib.ipv6_dst, &k->t.daddr, 16);
	}
	if (cfg_fib_src)
		flags = BPF_FIB_LOOKUP_SKIP_NEIGH | (k->prefer ? BPF_FIB_LOOKUP_SRC : 0);
	err = bpf_fib_lookup(skb, &fib, sizeof(fib), flags);
	/* Without a neighbour entry (below 6.3) this is the length passed in. */
	out->mtu = err == BPF_FIB_LKUP_RET_NO_NEIGH ? 0 : fib.mtu_result;
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return ROUTE_TOO_BIG;
	if (err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH)
		return ROUTE_STACK;
	out->ifindex = fib.ifindex;
	up = bpf_map_lookup_elem(&fl_uplink, &out->ifindex);
	if (!up)
		return ROUTE_STACK;
	out->up_flags = up->flags;
	out->src = is4 ? up->ip4 : up->ip6;
	if (cfg_fib_src && k->prefer) {
		if (is4)
			ip_set4(&out->src, fib.ipv4_src);
		else
			ip_set6(&out->src, fib.ipv6_src);
		/* Where the device has no address, the kernel chooses any address of the host:
		 * a gateway's is no better than a sandbox's. */
		if (!ip_equal(&out->src, is4 ? &up->ip4 : &up->ip6) && subnet_of(&out->src))
			out->src = is4 ? up->ip4 : up->ip6;
	}
	/* The next hop replaced the destination, perhaps in the other family (RFC 8950). */
	out->nh.nh_family = fib.family;
	if (fib.family == 2)
		out->nh.ipv4_nh = fib.ipv4_dst;
	else
		__builtin_memcpy(out->nh.ipv6_nh, fib.ipv6_dst, 16);
	return ROUTE_OK;
}

/* route_find looks up the route of packet p that arrived at device iif, as if it belonged to
 * flow *by. prefer: find the preferred source address of the route, for which IPv6 walks every
 * address of the host; else hop->src may be the uplink's first. For IPv4 it is always found. */
static __always_inline enum route_result route_find(struct __sk_buff *skb, const struct pkt *p,
						    const struct tuple *by, __u32 iif, bool prefer,
						    struct next_hop **hop)
{
	__u32 tick = bpf_ktime_get_coarse_ns() >> ROUTE_TICK_SHIFT, len = xlat_len(p, &by->daddr);
	bool is4 = ip_is4(&by->daddr);
	enum route_result got;
	struct route_slot *s;

	prefer |= is4; /* it costs nothing there */
	s = route_slot(by, prefer);
	if (!s)
		return ROUTE_STACK;
	*hop = &s->hop;
	if (s->tick == tick && route_key_is(&s->key, by, iif, prefer))
		return len > s->hop.mtu ? ROUTE_TOO_BIG : ROUTE_OK;
	s->key.t = *by;
	s->key.iif = iif;
	s->key.prefer = prefer;
	got = route_ask(skb, &s->key, len, is4, &s->hop);
	s->tick = got == ROUTE_OK && s->hop.mtu ? tick : tick - 1;
	return got;
}

/* Sends what BPF cannot handle to the host's stack, through the network's host port. */
static __always_inline int to_stack(struct __sk_buff *skb, const struct endpoint *ep)
{
	return to_host_port(skb, ep->hostport_if, ep->net, PATH_STACK);
}

/* Sends an ICMP error from the gateway to the sender in ep's network. */
static __always_inline int send_icmp_error(struct __sk_buff *skb, const struct pkt *p,
					   const struct endpoint *ep, __u32 kind, __u32 mtu,
					   int refusal)
{
	const union ip *src = p->flags & PKT_IP4 ? &ep->gw4 : &ep->gw6;

	return icmp_refuse(skb, p, src, kind, mtu, refusal);
}

static __always_inline int ttl_exceeded(struct __sk_buff *skb, const struct pkt *p,
					const struct endpoint *ep)
{
	return send_icmp_error(skb, p, ep, icmp_time_exceeded(p), 0, -DROP_TTL);
}

/* Handles packet p that is larger than the MTU of the route to *daddr. */
static __always_inline int too_big(struct __sk_buff *skb, const struct pkt *p,
				   const struct endpoint *ep, const union ip *daddr, __u32 mtu)
{
	mtu -= xlat_len(p, daddr) - p->len; /* as the sender counts it */
	if (!(p->flags & PKT_IP4))
		return send_icmp_error(skb, p, ep, ICMP_KIND(ICMPV6_PKT_TOOBIG, 0), mtu,
				       -DROP_TOO_BIG);
	/* The stack fragments packets without DF, unless they become IPv6. */
	if (!(p->flags & PKT_DF) && ip_is4(daddr))
		return to_stack(skb, ep);
	return send_icmp_error(skb, p, ep, ICMP_KIND(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED), mtu,
			       -DROP_TOO_BIG);
}

/* Sends the packet, translated to *to, to the next hop. */
static __always_inline int to_next_hop(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				       struct next_hop *hop)
{
	int err = nat_rewrite(skb, p, to);

	if (err)
		return err;
	err = decrement_ttl(skb, p);
	if (err)
		return err;
	count_path(skb, PATH_NEIGH);
	skb->mark = cfg_mark + hop->up_flags / UP_BELOW; /* to_uplink: already translated */
	return bpf_redirect_neigh(hop->ifindex, &hop->nh, sizeof(hop->nh), 0);
}

/* Begins a flow of endpoint ep to publish b. The backend sees its gateway as the source. The
 * client may be a neighbour of the backend or the backend itself, which would then reply
 * directly, and a neighbour may have its own flow to the backend with the same ports. */
static __always_inline int route_published(struct __sk_buff *skb, struct pkt *p,
					   const struct endpoint *ep, const struct publish *b)
{
	struct flow *f;
	int err;

	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	f = flow_prepare(p, b->net, skb->ifindex, b->ifindex);
	if (!f)
		return -DROP_CT_FULL;
	err = flow_publish(f, b, true);
	if (err)
		return err;
	err = flow_create(skb, p);
	if (err)
		return err;
	return route_to_sandbox(skb, p, &f->e.xlat, b->ifindex);
}

/* Begins a flow of endpoint ep to the outside. */
static __always_inline int route_outside(struct __sk_buff *skb, struct pkt *p,
					 const struct endpoint *ep)
{
	struct next_hop *hop;
	struct flow *f;
	int err;

	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	switch (route_find(skb, p, &p->t, ep->gateway_if, ep->flags & EP_MASQUERADE, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &p->t.daddr, hop->mtu);
	case ROUTE_STACK:
		return to_stack(skb, ep);
	}
	if (hop->up_flags & UP_STACK)
		return to_stack(skb, ep);
	f = flow_prepare(p, ep->net, skb->ifindex, 0);
	if (!f)
		return -DROP_CT_FULL;
	if (ep->flags & EP_MASQUERADE) {
		if (ip_is_zero(&hop->src))
			return -DROP_NO_UPLINK_ADDR;
		flow_masquerade(f, &hop->src);
	}
	err = flow_create(skb, p);
	if (err)
		return err;
	return to_next_hop(skb, p, &f->e.xlat, hop);
}

/* Is e the original direction of a flow with a translated source? */
static __always_inline bool ct_masqueraded(const struct ct_entry *e)
{
	return (e->flags & (CT_F_NAT_SRC | CT_F_REPLY)) == CT_F_NAT_SRC;
}

/* Handles a packet of a known flow from endpoint ep. */
static __always_inline int route_known(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep, struct ct_entry *e,
				       bool confirmed)
{
	struct icmp_work *w = icmp_scratch(); /* the stack is full */
	struct next_hop *hop;
	/* Copied, because confirming the flow frees the entry. */
	struct tuple to = e->xlat;
	__u32 out_if = e->out_if;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	if (p->ttl <= 1)
		return ttl_exceeded(skb, p, ep);
	if (e->flags & CT_F_STACK)
		return to_stack(skb, ep); /* to_uplink handles it then */
	/* A reply is routed from the address that the client used, as the host's own replies
	 * are. */
	if (ct_masqueraded(e))
		w->key = p->t;
	else
		w->key = e->xlat;
	err = ct_hit(p, e, confirmed);
	if (err)
		return err;
	if (out_if)
		return route_to_sandbox(skb, p, &to, out_if);
	switch (route_find(skb, p, &w->key, ep->gateway_if, false, &hop)) {
	case ROUTE_OK:
		break;
	case ROUTE_TOO_BIG:
		return too_big(skb, p, ep, &to.daddr, hop->mtu);
	case ROUTE_STACK:
		/* The stack would deliver a packet that must change its family to the host. */
		return xlat_needed(p, &to.daddr) ? -DROP_NO_ROUTE : to_stack(skb, ep);
	}
	/* The route of a masqueraded flow must use the uplink with its address. Usually that is
	 * the uplink's first address; only otherwise is the expensive lookup needed. */
	if (ip_equal(&w->key.saddr, &to.saddr) || ip_equal(&hop->src, &to.saddr))
		return to_next_hop(skb, p, &to, hop);
	if (cfg_fib_src && route_find(skb, p, &w->key, ep->gateway_if, true, &hop) != ROUTE_OK)
		return to_stack(skb, ep);
	if (ip_equal(&hop->src, &to.saddr))
		return to_next_hop(skb, p, &to, hop);
	/* The address may come back, as IPv6 addresses do after their device was down. */
	if (ip_is_zero(&hop->src))
		return -DROP_NO_UPLINK_ADDR;
	/* The route moved to another uplink: replies to the old address would not come back
	 * (nf_nat_masquerade deletes such flows too). */
	flow_forget(&p->t, &to);
	return route_outside(skb, p, ep);
}

/* Handles a packet of no flow yet, from endpoint ep to the gateway's MAC, if it stays on the
 * host. VERDICT_NEXT: it leaves. begins: it may begin a flow. */
static __always_inline int route_inside(struct __sk_buff *skb, struct pkt *p,
					const struct endpoint *ep, bool begins)
{
	const union ip *dst = &p->t.daddr;
	struct neigh_entry *n;
	__u32 net;

	/* A group is not reached through the gateway's MAC. */
	if (ip_is_multicast(dst) || ip_is_unspecified(dst))
		return -DROP_MARTIAN;
	if (p->flags & PKT_ICMP_LOCAL && !ip_equal(dst, &ep->gw6) && !ip_is_linklocal6(dst))
		return -DROP_BAD_ICMP;
	if (ip_equal(dst, &ep->gw4) || ip_equal(dst, &ep->gw6) || host_addr(dst)) {
		if (ep->flags & EP_INTERNAL) {
			/* The host is reachable through this network's gateway only. */
			if (!ip_equal(dst, &ep->gw4) && !ip_equal(dst, &ep->gw6))
				return -DROP_INTERNAL;
		} else if (begins && publish_may_begin(p)) {
			struct publish *b = publish_find(dst, p->t.dport, p->t.proto);

			if (b)
				return route_published(skb, p, ep, b);
		}
		return to_host_port(skb, ep->hostport_if, ep->net, PATH_REDIRECT);
	}
	net = subnet_of(dst);
	if (net && net != ep->net)
		return -DROP_ISOLATED;
	if (net) {
		/* Routed to a member through the gateway, by the members' rules. */
		if (!neigh_find(dst, net, &n))
			return -DROP_NO_MEMBER;
		if (!(ep->flags & EP_ICC))
			return -DROP_ICC;
		if (p->ttl <= 1)
			return ttl_exceeded(skb, p, ep);
		return route_to_sandbox(skb, p, &p->t, n->ifindex);
	}
	if (ip_is_loopback(dst))
		return -DROP_LOOPBACK;
	if (ep->flags & EP_INTERNAL)
		return -DROP_INTERNAL;
	if (ip_is_linklocal6(dst) || ip_is_linklocal6(&p->t.saddr))
		return to_host_port(skb, ep->hostport_if, ep->net, PATH_REDIRECT);
	return VERDICT_NEXT;
}

static __noinline int route_new(struct __sk_buff *skb, struct pkt *p, const struct endpoint *ep)
{
	int verdict = route_inside(skb, p, ep, true);

	return verdict == VERDICT_NEXT ? route_outside(skb, p, ep) : verdict;
}

/* Handles ICMP error p of endpoint ep that matches no flow. It can be about a packet that
 * reached ep without a flow, from the host or from a network that the host's stack forwards
 * for: then it returns to that packet's sender. in: the packet that it embeds. */
static __always_inline int route_stray_error(struct __sk_buff *skb, struct pkt *p,
					     const struct endpoint *ep, const struct pkt *in)
{
	struct next_hop *hop;
	int verdict;

	if (!ip_equal(&in->t.saddr, &p->t.daddr))
		return -DROP_BAD_ICMP;
	if (ep->flags & EP_ANTISPOOF && !ip_equal(&in->t.daddr, &p->t.saddr))
		return -DROP_BAD_ICMP;
	verdict = route_inside(skb, p, ep, false);
	if (verdict != VERDICT_NEXT)
		return verdict;
	if (route_find(skb, p, &p->t, ep->gateway_if, false, &hop) == ROUTE_STACK)
		return to_stack(skb, ep);
	return -DROP_BAD_ICMP;
}

/* Translates the packet embedded in ICMP error p if it belongs to a flow whose replies come
 * from device in_if, and sets w->to to the new addresses of the error itself. *out: the flow's
 * entry, or NULL. */
static __always_inline int icmp_related(struct __sk_buff *skb, struct pkt *p, __u32 in_if,
					struct icmp_work *w, struct ct_entry **out)
{
	bool confirmed, xlat;
	struct ct_entry *e;
	int err;

	*out = NULL;
	err = icmp_embedded(skb, p, &w->in);
	if (err)
		return err;
	tuple_reverse(&w->key, &w->in.t);
	e = ct_find(&w->key, &confirmed);
	if (!e || e->in_if != in_if)
		return 0;
	w->to = p->t;
	w->to.daddr = e->xlat.daddr;
	/* The sender is the flow's own end and not a router on the path, or it has no address
	 * in the other family. */
	xlat = xlat_needed(p, &e->xlat.daddr);
	if (xlat || ip_equal(&p->t.saddr, &w->key.saddr))
		w->to.saddr = e->xlat.saddr;
	tuple_reverse(&w->key, &e->xlat);
	err = xlat ? xlat_icmp(skb, p, w) : icmp_rewrite_embedded(skb, p, &w->in, &w->key);
	if (err)
		return err;
	*out = e;
	return 0;
}

/* Handles an ICMP error from endpoint ep. */
static __noinline int route_icmp_error(struct __sk_buff *skb, struct pkt *p,
				       const struct endpoint *ep)
{
	struct icmp_work *w = icmp_scratch();
	const struct tuple *by;
	struct next_hop *hop;
	struct ct_entry *e;
	int err;

	if (!w)
		return -DROP_NAT_FAILED;
	err = icmp_related(skb, p, skb->ifindex, w, &e);
	if (err)
		return err;
	if (!e)
		return route_stray_error(skb, p, ep, &w->in);
	if (icmp_redirects(p))
		return -DROP_BAD_ICMP;
	if (p->ttl <= 1)
		return -DROP_TTL;
	if (e->out_if)
		return route_to_sandbox(skb, p, &w->to, e->out_if);
	by = ct_masqueraded(e) ? &p->t : &w->to;
	if (route_find(skb, p, by, ep->gateway_if, false, &hop) != ROUTE_OK)
		return -DROP_NO_ROUTE;
	return to_next_hop(skb, p, &w->to, hop);
}

/* route_from_endpoint handles an IP packet to the gateway's MAC. */
__noinline int route_from_endpoint(struct __sk_buff *skb, const struct endpoint *ep,
				   __be16 eth_proto)
{
	struct ct_entry *e;
	bool confirmed;
	struct pkt p;
	int err;

	if (!ep)
		return -DROP_UNKNOWN_ENDPOINT;
	/* Later fragments follow their first, whatever its verdict. */
	err = frag_follow(skb, &p, parse(skb, &p, eth_proto));
	if (err)
		return err;
	if (p.flags & PKT_ICMP_ERROR)
		return route_icmp_error(skb, &p, ep);
	e = ct_find(&p.t, &confirmed);
	if (e && e->in_if == skb->ifindex)
		return route_known(skb, &p, ep, e, confirmed);
	/* The flow of an endpoint that had this address before. */
	if (e)
		flow_forget(&p.t, &e->xlat);
	return route_new(skb, &p, ep);
}
