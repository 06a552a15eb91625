/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Cached decisions: how the packets of an established flow's direction are translated and where they
 * go, for those that follow on the same CPU. decision_use.h uses them.
 *
 * A decision holds for a tick, and while the generation stays (generation.h). The first packet
 * afterwards takes the whole path, which also prolongs the flow.
 *
 * A packet of TCP may change the state of its flow. While the numbers of its direction (window.h) are
 * in the decision, packets without SYN, FIN and RST that continue them do not even need the flow's
 * entry, which says on which CPU the numbers are (ct_entry.cpu). Whatever reads the numbers of an entry
 * takes them back first (decision_take). So an entry is never behind when it is used. All other
 * packets are looked up and followed (decision_follow), with their translation from the decision.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "clock.h"
#include "config.h"
#include "ct.h"
#include "node.h"
#include "pkt.h"
#include "tuple.h"
#include "window.h"

/* No decision holds for the packet. */
#define VERDICT_SLOW 0x400

struct decision {
	/* Which packets: */
	struct tuple key;
	__u64 generation;
	__u32 ifindex; /* the device they arrive at */
	__u32 tick;    /* clock_tick() when it was made; 0: it is not complete */
	__u64 macs;    /* from an endpoint: the first twelve bytes of the frame */
	__u32 macs2;
	__u32 mtu;  /* of longer packets it does not hold, in bytes */
	__u64 seen; /* generation before the lookups of the latest packet that came here */
	/* What becomes of them: */
	struct tuple to;
	__u16 sum_addrs; /* the change of a checksum by the addresses, */
	__u16 sum_ports; /* and by the ports */
	__u8 kind;	 /* enum dest_kind */
	__u8 numbers;	 /* 1: of a TCP flow whose entry names this CPU, with the numbers below */
	__u8 dmac[ETH_ALEN];
	__u8 smac[ETH_ALEN];
	__u16 touches; /* by packets with the hash below that could have been steady */
	__u32 hash;    /* of the packets that want the slot */
	__u32 out;     /* ifindex */
	__u32 net;     /* network index they are accounted to as they arrive, */
	__u32 to_net;  /* and as they are delivered */
	__u32 mark;
	struct bpf_redir_neigh nh;
	/* As in struct ct_entry: */
	__u32 end;
	__u32 ack;
	__u32 win;
	__u32 scale;
	__u32 hits; /* packets that used it, for tests */
};

#define DECISIONS_SHIFT 10

/* One set per processor; bottom halves are off from lookup to use. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << DECISIONS_SHIFT);
	__type(key, __u32);
	__type(value, struct decision);
} fl_decision SEC(".maps");

/* A hash of packets with these addresses (their latter halves) and ports. */
static __always_inline __u64 decision_hash(__u64 saddr, __u64 daddr, __u32 ports)
{
	__u64 h = (saddr ^ ports) * 0x9e3779b97f4a7c15ULL + daddr; /* 2^64 over the golden ratio */

	return h * 0x9e3779b97f4a7c15ULL;
}

/* Where their decision is. */
static __always_inline __u32 decision_index(__u64 hash)
{
	return hash >> (64 - DECISIONS_SHIFT);
}

static __always_inline __u32 ports_of(const struct tuple *t)
{
	return t->sport | (__u32)t->dport << 16;
}

static __always_inline __u64 decision_hash_of(const struct tuple *t)
{
	return decision_hash(t->saddr.d[1], t->daddr.d[1], ports_of(t));
}

/* Brings the numbers of entry e up to date. */
static __always_inline void numbers_merge(struct ct_entry *e, const struct decision *d)
{
	if (seq_after(d->end, e->end))
		e->end = d->end;
	if (seq_after(d->ack, e->ack))
		e->ack = d->ack;
	if (d->win > e->win)
		e->win = d->win;
	e->cpu = 0;
}

/* Takes the numbers of packets *t from their decision and brings their entry e, which names a CPU, up
 * to date. */
static __always_inline void numbers_take(const struct tuple *t, struct ct_entry *e)
{
	__u32 i = decision_index(decision_hash_of(t)), cpu = e->cpu - 1;
	struct decision *d = bpf_map_lookup_percpu_elem(&fl_decision, &i, cpu);

	if (d && d->numbers && tuple_equal(&d->key, t)) {
		d->numbers = 0;
		/* If several CPUs send in this direction, none of them should take the numbers
		 * from the others with each packet. */
		if (cpu != bpf_get_smp_processor_id())
			d->touches = 0;
		numbers_merge(e, d);
		return;
	}
	/* It was made by programs that were replaced. The numbers are not known any more, as if
	 * the flow had been created without them. */
	e->flags &= ~CT_F_SEQ;
	e->cpu = 0;
}

/* decision_take takes the numbers of entry e of packets *t back. Not inlined: few packets come here. */
static __noinline void decision_take(const struct tuple *t, struct ct_entry *e)
{
	numbers_take(t, e);
}

/* The same for the partner o of entry e. */
static __noinline void decision_take_partner(const struct ct_entry *e, struct ct_entry *o)
{
	struct tuple k;

	tuple_reverse(&k, &e->xlat);
	numbers_take(&k, o);
}

/* Can a decision be made for packet p, which is translated to *to and goes to out_if (ct_entry)? */
static __always_inline bool decision_fits(const struct pkt *p, const struct tuple *to, __u32 out_if)
{
	bool is4 = p->flags & PKT_IP4;
	__u32 plain = is4 ? L3 + sizeof(struct iphdr) : L3 + sizeof(struct ipv6hdr);

	return !(p->flags & (PKT_FRAG_FIRST | PKT_FRAG_LATER | PKT_ICMP_ERROR | PKT_ICMP_LOCAL)) &&
	       p->l4 == plain && ip_is4(&to->daddr) == is4 && !(out_if & VIA_NODE) &&
	       (p->t.proto == IPPROTO_TCP || p->t.proto == IPPROTO_UDP);
}

/* Notes a packet that could use the numbers of slot d. Are there enough of them for that to be
 * worthwhile? */
static __always_inline bool decision_touched(struct decision *d)
{
	if (d->touches + 1 >= cfg_cache)
		return true;
	d->touches++;
	return false;
}

/* Is a decision worthwhile in slot d for packets with this hash? Of UDP it is for those of which there
 * were some already, so that short flows do not pay for it. A connection has more packets than it
 * takes. Others wait while the slot is in use. */
static __always_inline bool decision_wanted(struct decision *d, __u32 hash, __u8 proto)
{
	if (d->hash != hash) {
		if (d->tick == clock_tick())
			return false;
		d->hash = hash;
		d->touches = proto == IPPROTO_TCP ? cfg_cache : 0;
	}
	return decision_touched(d);
}

/* Moves the numbers of TCP entry e, which is up to date, to its decision d. */
static __always_inline void decision_lend(struct decision *d, struct ct_entry *e)
{
	e->cpu = bpf_get_smp_processor_id() + 1;
	d->numbers = 1;
	d->end = e->end;
	d->ack = e->ack;
	d->win = e->win;
	d->scale = e->scale & 15;
}

/* decision_begin prepares a decision for the packets that follow packet p, which has PKT_STEADY, is
 * translated to *to and goes to out_if (ct_entry). It leaves PKT_STEADY set if the decision is to be
 * completed (deliver_known). e: the entry of its flow; NULL if that has just been moved. Not inlined:
 * short flows take it once or twice. */
static __noinline void decision_begin(struct __sk_buff *skb, struct pkt *p, const struct tuple *to,
				      __u32 out_if, struct ct_entry *e)
{
	__u64 hash = decision_hash_of(&p->t);
	__u32 i = decision_index(hash);
	struct decision *d = bpf_map_lookup_elem(&fl_decision, &i);
	struct ct_entry *old;

	p->flags &= ~PKT_STEADY;
	if (!d || !decision_wanted(d, hash, p->t.proto) || !decision_fits(p, to, out_if))
		return;
	if (!tuple_equal(&d->key, &p->t) || d->ifindex != skb->ifindex) {
		if (d->tick == clock_tick())
			return;
		if (d->numbers) {
			old = bpf_map_lookup_elem(&fl_ct, &d->key);
			if (old && old->cpu == bpf_get_smp_processor_id() + 1)
				numbers_merge(old, d);
		}
		d->key = p->t;
		d->ifindex = skb->ifindex;
	}
	d->numbers = 0;
	d->tick = 0;
	if (p->t.proto == IPPROTO_TCP && e)
		decision_lend(d, e);
	p->flags |= PKT_STEADY;
}
