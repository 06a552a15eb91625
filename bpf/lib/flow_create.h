/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Creating flows: which tuple the packet becomes, and that no other flow has it.
 *
 * The reply's tuple is the reverse of the translated packet. Inserting the reply's entry with
 * BPF_NOEXIST claims it. When it is taken, the flow leaves with another source port. So
 * masquerading and the other, rare case (two published addresses, one client port, one backend)
 * share one search.
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "count.h"
#include "ct.h"
#include "drop.h"
#include "flow.h"
#include "icmp.h"
#include "netfilter.h"
#include "pkt.h"
#include "portbits.h"
#include "service.h"
#include "track.h"
#include "tuple.h"

/* Ports tried before a packet is refused; after ~25 random ones the chance is small. */
#define PORT_TRIES 32

/* From one port tried to the next. It is large, because ports in use are often adjacent, and a
 * prime above all ports, so that each port of a small range is tried once before any is tried
 * again. */
#define PORT_STEP 99991

/*
 * Packets that the host sends to a sandbox have a gateway's address, too, and no entry. So flows
 * translated to such an address use source ports up to this one. By default the kernel allocates
 * higher ones (net.ipv4.ip_local_port_range), and a packet of the host with a port of this range
 * is looked up (host_to_member).
 */
#define GATEWAY_PORT_MAX 32767

/* Claims f->rkey for this flow. 0: it belongs to this flow now (or did already); 1: to another. */
static __always_inline int flow_claim(struct flow *f, __u32 now)
{
	struct ct_entry *taken;

	taken = bpf_map_lookup_elem(&fl_ct, &f->rkey);
	if (taken && !tuple_equal(&taken->xlat, &f->reply.xlat))
		return 1;
	if (!bpf_map_update_elem(&fl_ct_new, &f->rkey, &f->reply, BPF_NOEXIST)) {
		/* It may have been confirmed between the two lookups. */
		taken = bpf_map_lookup_elem(&fl_ct, &f->rkey);
		if (!taken || tuple_equal(&taken->xlat, &f->reply.xlat))
			return 0;
		bpf_map_delete_elem(&fl_ct_new, &f->rkey);
		return 1;
	}
	taken = bpf_map_lookup_elem(&fl_ct_new, &f->rkey);
	if (!taken)
		return 1;
	if (!tuple_equal(&taken->xlat, &f->reply.xlat) && (__s32)(taken->expires - now) > 0)
		return 1;
	/* Either this flow's own, whose partner was evicted, or an expired one, which is
	 * removed with its partner: that must not refer to the new flow. */
	if (!tuple_equal(&taken->xlat, &f->reply.xlat)) {
		tuple_reverse(&f->other, &taken->xlat);
		bpf_map_delete_elem(&fl_ct_new, &f->other);
	}
	return bpf_map_update_elem(&fl_ct_new, &f->rkey, &f->reply, BPF_ANY) ? 1 : 0;
}

/* Is the published port that flow f would leave from its sender's own? Then the sender gets what
 * arrives there, be it a reply or not, and its peers may learn that port from the flow (STUN,
 * WireGuard, TCP's simultaneous open). The backend of a pool changes with the client. */
static __always_inline bool port_is_own(struct flow *f)
{
	struct service *s;
	struct backend *b;

	/* There the name server may have them (names_served). */
	if (f->gateway &&
	    (f->rkey.dport == bpf_htons(DNS_PORT) || f->rkey.dport == bpf_htons(RESOLVER_PORT)))
		return false;
	f->at = (struct service_key){ .addr = f->rkey.daddr,
				      .port = f->rkey.dport,
				      .proto = f->rkey.proto };
	s = bpf_map_lookup_elem(&fl_service, &f->at); /* service_find needs more stack */
	if (!s) {
		service_wildcard(&f->at.addr, ip_is4(&f->at.addr));
		s = bpf_map_lookup_elem(&fl_service, &f->at);
	}
	if (!s || s->flags & SERVICE_POOL || s->port != f->key.sport)
		return false;
	f->backend.service = s->id;
	f->backend.slot = s->first;
	b = bpf_map_lookup_elem(&fl_backend, &f->backend);
	return b && b->ifindex == f->e.in_if && ip_equal(&b->addr, &f->key.saddr);
}

/* Is the source port of the flow in flow_scratch() usable? If so, claims the reply's tuple and
 * returns 0. Global, so that it is verified once and not for each try. */
__noinline int flow_try_port(struct __sk_buff *skb, __u32 now)
{
	struct flow *f = flow_scratch();

	if (!f)
		return 1;
	tuple_reverse(&f->rkey, &f->e.xlat);
	if (f->host_src && host_has(skb, &f->rkey, &f->st))
		return 1;
	if (f->host_src && port_published(f->rkey.proto, f->rkey.dport) && !port_is_own(f))
		return 1;
	return flow_claim(f, now);
}

/* Can the source port of packets *t change? It can for TCP and UDP, and so can the id of an
 * ICMP request. */
static __always_inline bool port_changes(const struct tuple *t)
{
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6)
		return icmp_has_id(t->proto, t->ask);
	return t->proto != IPPROTO_SCTP && t->sport;
}

struct port_range {
	__u32 min;
	__u32 max;
};

/* The range from which a flow with source port sport may get another one. Servers trust
 * privileged ports (NFS, rsh), so these stay privileged; the classes are those of
 * nf_nat_l4proto_unique_tuple(). */
static __always_inline struct port_range port_range(const struct flow *f, __u32 sport)
{
	if (f->key.proto != IPPROTO_ICMP && f->key.proto != IPPROTO_ICMPV6) {
		if (sport < 512)
			return (struct port_range){ 1, 511 };
		if (sport < 1024)
			return (struct port_range){ 600, 1023 };
	}
	if (f->gateway)
		return (struct port_range){ 1024, GATEWAY_PORT_MAX };
	return (struct port_range){ cfg_snat_min, cfg_snat_max };
}

/* Claims the first usable source port: the original one, then some of the range. */
static __always_inline bool flow_find_port(struct __sk_buff *skb, struct flow *f, __u32 now)
{
	__u32 own = bpf_ntohs(f->e.xlat.sport), start = bpf_get_prandom_u32() >> 16;
	struct port_range r = port_range(f, own);
	bool fits = !f->gateway || own <= r.max;
	__u32 width = r.max - r.min + 1;

	if (!fits)
		f->e.xlat.sport = bpf_htons(r.min + start % width);
	for (__u32 i = 1; flow_try_port(skb, now); i++) {
		if (i > PORT_TRIES || !port_changes(&f->key))
			return false;
		f->e.xlat.sport = bpf_htons(r.min + (start + i * PORT_STEP) % width);
		count_event(EV_SNAT_RETRY);
	}
	return true;
}

/* The first packets of both directions created flow f simultaneously, each with the other's entry
 * as that of its reply: without an original direction no TCP connection is ever assured. Both
 * packets choose the same one, by their devices. e: of f->key. */
static __always_inline void flow_settle(struct flow *f, struct ct_entry *e)
{
	if (f->e.in_if <= f->e.out_if)
		e = bpf_map_lookup_elem(&fl_ct_new, &f->rkey);
	if (e)
		e->flags &= ~CT_F_REPLY;
}

/*
 * Does the key of the flow in flow_scratch() have an entry now? Another CPU may just have created
 * it for a packet that arrived at the same time: the next packet of this flow (a resolver sends A
 * and AAAA queries at once), or one of a flow in the other direction, to which this packet is then
 * a reply. The packet must use the port of that entry: with another port its reply would match no
 * flow.
 */
static __always_inline bool flow_is_made(struct flow *f, __u32 now)
{
	struct ct_entry *e = bpf_map_lookup_elem(&fl_ct_new, &f->key);
	__be16 own = f->e.xlat.sport;

	if (!e || e->in_if != f->e.in_if || (__s32)(e->expires - now) <= 0)
		return false;
	f->other = e->xlat;
	f->e.xlat.sport = f->other.sport;
	if (!tuple_equal(&f->other, &f->e.xlat)) {
		f->e.xlat.sport = own;
		return false;
	}
	if (f->other.sport != own)
		bpf_map_delete_elem(&fl_ct_new, &f->rkey);
	else if (e->flags & CT_F_REPLY)
		flow_settle(f, e);
	return true;
}

/*
 * flow_create records the flow of packet p as prepared in flow_scratch(), unconfirmed. It keeps
 * xlat.sport if that is free, else chooses from cfg_snat_min..cfg_snat_max. f->e.flags may contain
 * CT_F_HOST or CT_F_STACK. Returns 0, -DROP_SNAT_EXHAUSTED or -DROP_CT_FULL.
 */
__noinline int flow_create(struct __sk_buff *skb, const struct pkt *p)
{
	struct flow *f = flow_scratch();
	__u32 now = now_seconds();
	long err;

	if (!p || !f)
		return -DROP_CT_FULL;
	/* A connection that is refused is better than one that is lost later; fl_ct_new has
	 * other flows, too. */
	if (p->t.proto == IPPROTO_TCP && !ct_room(IPPROTO_TCP))
		return -DROP_CT_FULL;
	f->key = p->t;
	f->e.state = ct_first_state(p);
	f->e.created = now;
	f->e.expires = ct_expires(now, f->e.state, false);
	f->e.flags = (f->e.flags & (CT_F_HOST | CT_F_STACK)) | CT_F_SEEN;
	if (!ip_equal(&f->e.xlat.saddr, &p->t.saddr))
		f->e.flags |= CT_F_NAT_SRC;
	if (!ip_equal(&f->e.xlat.daddr, &p->t.daddr))
		f->e.flags |= CT_F_NAT_DST;
	ct_begin_sequence(&f->e, p);
	ct_make_partner(&f->reply, &f->key, &f->e);
	if (!flow_find_port(skb, f, now))
		return -DROP_SNAT_EXHAUSTED;
	err = bpf_map_update_elem(&fl_ct_new, &f->key, &f->e, BPF_NOEXIST);
	if (err && flow_is_made(f, now))
		return 0;
	if (err && bpf_map_update_elem(&fl_ct_new, &f->key, &f->e, BPF_ANY)) {
		bpf_map_delete_elem(&fl_ct_new, &f->rkey);
		return -DROP_CT_FULL;
	}
	count_event(EV_CT_CREATED);
	return 0;
}
