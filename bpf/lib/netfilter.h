/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Queries of the kernel's own connection tracking: about a flow that the stack routed here, and
 * about flows that other NATs of the host made.
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "hostsock.h"
#include "tuple.h"

#define NETNS_CURRENT (-1) /* BPF_F_CURRENT_NETNS */

/* enum ip_conntrack_dir of <linux/netfilter/nf_conntrack_tuple_common.h> */
#define NF_DIR_ORIGINAL 0
#define NF_DIR_REPLY 1
#define NF_DIR_NONE 2

/* The kernel's struct bpf_ct_opts of 5.18. Newer kernels have a longer one and accept this too. */
struct nf_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4_proto;
	__u8 dir; /* out */
	__u8 reserved[2];
};
_Static_assert(sizeof(struct nf_opts) == 12, "struct nf_opts");

/* Used only through pointers. */
struct nf_conn {
};

/* Provided by the kernel or its module nf_conntrack; the loader sets cfg_conntrack where they
 * work. */
struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
				  __u32 tuple_size, struct nf_opts *opts, __u32 opts_size) __ksym
	__weak;
void bpf_ct_release(struct nf_conn *ct) __ksym __weak;

/* Can connection tracking be queried, and does it know this protocol? */
static __always_inline bool nf_asked(__u8 proto)
{
	return cfg_conntrack && (proto == IPPROTO_TCP || proto == IPPROTO_UDP);
}

/* The direction of the tracked flow that has *st, or NF_DIR_NONE. */
static __always_inline int nf_direction(struct __sk_buff *skb, struct bpf_sock_tuple *st, __u32 len,
					__u8 proto)
{
	struct nf_opts opts = { .netns_id = NETNS_CURRENT, .l4_proto = proto };
	struct nf_conn *ct;

	if (len == sizeof(st->ipv4))
		ct = bpf_skb_ct_lookup(skb, st, sizeof(st->ipv4), &opts, sizeof(opts));
	else
		ct = bpf_skb_ct_lookup(skb, st, sizeof(st->ipv6), &opts, sizeof(opts));
	if (!ct)
		return NF_DIR_NONE;
	bpf_ct_release(ct);
	return opts.dir;
}

/* Is there a tracked flow whose packets of direction dir arrive as t? */
static __noinline bool nf_tracks(struct __sk_buff *skb, const struct tuple *t, __u8 dir)
{
	struct bpf_sock_tuple st;
	__u32 len = sock_tuple(&st, t);

	return nf_direction(skb, &st, len, t->proto) == dir;
}

/* Did netfilter change the destination of this packet, so that its reply must pass netfilter
 * again? It can say so for TCP and UDP only. */
static __always_inline bool nf_translates(struct __sk_buff *skb, const struct tuple *t)
{
	struct tuple answer;

	if (!nf_asked(t->proto))
		return false;
	tuple_reverse(&answer, t);
	return nf_tracks(skb, &answer, NF_DIR_REPLY) && !nf_tracks(skb, t, NF_DIR_ORIGINAL);
}

/* Does the host have a flow whose packets arrive as t: a socket, or one that another NAT on the
 * host translates (guests, other programs' containers, which share the host's addresses with
 * ours)? *st is scratch. */
static __always_inline bool host_has(struct __sk_buff *skb, const struct tuple *t,
				     struct bpf_sock_tuple *st)
{
	__u32 len = sock_tuple(st, t);

	if (host_socket(skb, st, len, t->proto))
		return true;
	return nf_asked(t->proto) && nf_direction(skb, st, len, t->proto) != NF_DIR_NONE;
}
