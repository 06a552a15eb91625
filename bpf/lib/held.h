/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Fragments in any order. A fragment that arrives before its first is held (fl_held) and received
 * again, at the device it arrived at, once the first has arrived. Nothing is reassembled:
 * fragments are forwarded as they are.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "clock.h"
#include "count.h"
#include "drop.h"
#include "frag.h"
#include "pkt.h"

/* fl_held: fragments that arrived before their first. */
#define HELD_SLOTS 256
#define HELD_FRAME 2048

/* Slots examined for a fragment, beginning with the one that a hash of its source selects: one
 * sender fills no more of them. */
#define HELD_WINDOW 64

enum held_state {
	HELD_FREE,
	HELD_BUSY, /* in use by a program */
	HELD_FULL,
};

struct held {
	struct frag_key key;
	__u32 state;   /* enum held_state */
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
	__u32 ifindex; /* of the device it arrived at */
	__u32 len;     /* of the frame, in bytes */
	__u8 frame[HELD_FRAME];
};
_Static_assert(sizeof(struct held) == 56 + HELD_FRAME, "struct held");

/* Fragments that wait for their first, in slots found by a hash of their source. When those are
 * full, further ones are refused or left to the host's stack. The last slot holds no fragment: it
 * says until when any is waiting. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_SLOTS + 1);
	__type(key, __u32);
	__type(value, struct held);
} fl_held SEC(".maps");

static __always_inline struct held *held_slot(__u32 i)
{
	return bpf_map_lookup_elem(&fl_held, &i);
}

/* The first slot for fragments with this key. */
static __always_inline __u32 held_begin(const struct frag_key *k)
{
	return (k->saddr.d[1] * 0x9e3779b97f4a7c15ULL) >> 56; /* of HELD_SLOTS, 2^8 */
}

static __always_inline bool frag_key_equal(const struct frag_key *a, const struct frag_key *b)
{
	return ip_equal(&a->saddr, &b->saddr) && ip_equal(&a->daddr, &b->daddr) && a->id == b->id &&
	       a->proto == b->proto;
}

/* A walk through the slots of one key. */
struct held_walk {
	struct __sk_buff *skb;
	struct frag_key key;
	__u32 begin;
	__u32 now;
	__u32 expires;
	__u32 done; /* 1 + the index of the slot that was filled, or the number of slots emptied */
};

static long held_put(__u32 i, struct held_walk *w)
{
	struct held *s = held_slot((w->begin + i) % HELD_SLOTS);
	__u32 state, len = w->skb->len;

	if (!s)
		return 1;
	state = s->state;
	/* Only a program that was not run to its end leaves a slot busy. */
	if (state != HELD_FREE && (__s32)(s->expires - w->now) > 0)
		return 0;
	if (__sync_val_compare_and_swap(&s->state, state, HELD_BUSY) != state)
		return 0;
	s->key = w->key;
	s->expires = w->expires;
	s->ifindex = w->skb->ifindex;
	s->len = len;
	barrier_var(len); /* or clang removes the check that the verifier needs */
	if (len < ETH_HLEN || len > HELD_FRAME || bpf_skb_load_bytes(w->skb, 0, s->frame, len)) {
		s->state = HELD_FREE;
		return 1;
	}
	s->state = HELD_FULL;
	w->done = i + 1;
	return 1;
}

/* Holds later fragment p until its first arrives. Returns false if there is no room, or if it
 * is too large. Global, so that it is verified once. */
__noinline int frag_hold(struct __sk_buff *skb, const struct pkt *p)
{
	struct held_walk w = { .skb = skb };
	struct held *summary = held_slot(HELD_SLOTS);

	if (!p || !summary || skb->len > HELD_FRAME || !(p->flags & PKT_FRAG_LATER))
		return 0;
	frag_key_of(&w.key, p);
	w.begin = held_begin(&w.key);
	w.now = now_seconds();
	w.expires = w.now + frag_lifetime(p);
	bpf_loop(HELD_WINDOW, held_put, &w, 0);
	if (!w.done)
		return 0;
	summary->expires = w.expires;
	count_path(skb, PATH_HELD);
	/* The first may have arrived on another processor since the lookup and found nothing
	 * here. Then this fragment is received again at once, unless another processor has
	 * taken it. */
	if (frag_find(&w.key)) {
		struct held *s = held_slot((w.begin + w.done - 1) % HELD_SLOTS);

		if (s && __sync_val_compare_and_swap(&s->state, HELD_FULL, HELD_FREE) == HELD_FULL)
			bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	}
	return 1;
}

/* Replaces the packet by the frame held in s. */
static __always_inline bool held_load(struct __sk_buff *skb, struct held *s)
{
	__u32 len = s->len;

	if (bpf_skb_change_tail(skb, len, 0))
		return false;
	barrier_var(len);
	if (len < ETH_HLEN || len > HELD_FRAME)
		return false;
	return !bpf_skb_store_bytes(skb, 0, s->frame, len,
				    BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
}

static long held_take(__u32 i, struct held_walk *w)
{
	struct held *s = held_slot((w->begin + i) % HELD_SLOTS);

	if (!s)
		return 1;
	if (s->state != HELD_FULL || !frag_key_equal(&s->key, &w->key) ||
	    (__s32)(s->expires - w->now) <= 0)
		return 0;
	if (__sync_val_compare_and_swap(&s->state, HELD_FULL, HELD_BUSY) != HELD_FULL)
		return 0;
	w->done++;
	if (held_load(w->skb, s))
		bpf_clone_redirect(w->skb, s->ifindex, BPF_F_INGRESS);
	s->state = HELD_FREE;
	return 0;
}

/* The first fragment itself, while its packet is used to send the others. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} fl_first SEC(".maps");

/* Sends the fragments that wait for first fragment p to their devices again, behind it. Returns
 * 0 or -DROP_X. */
static __noinline int frag_release(struct __sk_buff *skb, const struct frag_key *k)
{
	struct held_walk w = { .skb = skb, .key = *k, .begin = held_begin(k) };
	__u32 zero = 0, len = skb->len;
	struct held *first = bpf_map_lookup_elem(&fl_first, &zero);

	if (!first || len > HELD_FRAME)
		return 0;
	first->len = len;
	barrier_var(len);
	if (len < ETH_HLEN || len > HELD_FRAME || bpf_skb_load_bytes(skb, 0, first->frame, len))
		return 0;
	w.now = now_seconds();
	bpf_loop(HELD_WINDOW, held_take, &w, 0);
	if (w.done && !held_load(skb, first))
		return -DROP_NAT_FAILED;
	return 0;
}

/* frag_seen records the ports of first fragment p for those that follow and releases those that
 * arrived before it. Pointers into the packet are invalid afterwards. Returns 0 or -DROP_X.
 * Global, as frag_hold. */
__noinline int frag_seen(struct __sk_buff *skb, const struct pkt *p)
{
	struct held *summary = held_slot(HELD_SLOTS);
	struct frag_key k;

	if (!p || !summary)
		return 0;
	frag_remember(p);
	frag_key_of(&k, p);
	if ((__s32)(summary->expires - now_seconds()) <= 0)
		return 0; /* none are held */
	return frag_release(skb, &k);
}

/* Runs after parse, which returned err, where fragments are matched to their first in any
 * order. 0: go on. TC_ACT_SHOT: the fragment is held. */
static __always_inline int frag_follow(struct __sk_buff *skb, const struct pkt *p, int err)
{
	if (err == -DROP_FRAG_UNKNOWN && frag_hold(skb, p))
		return TC_ACT_SHOT;
	if (!err && p->flags & PKT_FRAG_FIRST)
		return frag_seen(skb, p);
	return err;
}
