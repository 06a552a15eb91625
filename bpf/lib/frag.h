/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Fragments. Only the first has the ports; the others are matched to it by the fields they share. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "drop.h"
#include "pkt.h"

/* fl_frag: what a non-first fragment shares with its first -> what only the first has */
struct frag_key {
	union ip saddr;
	union ip daddr;
	__be32 id;  /* IPv4: 16 bits, zero-extended */
	__u8 proto; /* of IPv4's header, or of IPv6's fragment header */
	__u8 pad[3];
};
_Static_assert(sizeof(struct frag_key) == 40, "struct frag_key");

struct frag_entry {
	__be16 sport;
	__be16 dport;
	__u8 proto; /* of layer 4 */
	__u8 ask;   /* as struct tuple */
	__u8 answer;
	__u8 pad;
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
};

/* Ports of fragmented packets in flight, for as long as a receiver would wait for the rest; the
 * oldest is evicted first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct frag_key);
	__type(value, struct frag_entry);
} fl_frag SEC(".maps");

/* The fields that the first and the later fragments of a packet share. */
static __always_inline void frag_key_of(struct frag_key *k, const struct pkt *p)
{
	k->saddr = p->t.saddr;
	k->daddr = p->t.daddr;
	k->id = p->frag_id;
	k->proto = p->frag_proto;
	k->pad[0] = 0;
	k->pad[1] = 0;
	k->pad[2] = 0;
}

/* Seconds a receiver waits for missing fragments: net.ipv4.ipfrag_time, net.ipv6.ip6frag_time.
 * An ID may be reused after that (RFC 6864 section 4.3, RFC 8200 section 4.5). */
static __always_inline __u32 frag_lifetime(const struct pkt *p)
{
	return p->flags & PKT_IP4 ? 30 : 60;
}

/* The data recorded from the first of these fragments, while others may still arrive; else
 * NULL. */
static __always_inline struct frag_entry *frag_find(const struct frag_key *k)
{
	struct frag_entry *v = bpf_map_lookup_elem(&fl_frag, k);

	return v && (__s32)(v->expires - now_seconds()) > 0 ? v : NULL;
}

static __always_inline int frag_recall(struct pkt *p)
{
	struct frag_entry *v;
	struct frag_key k;

	frag_key_of(&k, p);
	v = frag_find(&k);
	if (!v)
		return -DROP_FRAG_UNKNOWN;
	p->t.sport = v->sport;
	p->t.dport = v->dport;
	p->t.proto = v->proto;
	p->t.ask = v->ask;
	p->t.answer = v->answer;
	return 0;
}

/* frag_remember records the ports of a first fragment for those that follow. */
static __always_inline void frag_remember(const struct pkt *p)
{
	struct frag_entry v = {};
	struct frag_key k;

	if (!(p->flags & PKT_FRAG_FIRST))
		return;
	frag_key_of(&k, p);
	v.sport = p->t.sport;
	v.dport = p->t.dport;
	v.proto = p->t.proto;
	v.ask = p->t.ask;
	v.answer = p->t.answer;
	v.expires = now_seconds() + frag_lifetime(p);
	bpf_map_update_elem(&fl_frag, &k, &v, BPF_ANY);
}
