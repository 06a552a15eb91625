/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * What the kernel's own connection tracking knows: asked where the datapath would refuse
 * a packet that the host's stack may be waiting for.
 */

#include "config.h"
#include "pkt.h"

#define NETNS_CURRENT (-1) /* BPF_F_CURRENT_NETNS */
#define NF_DIR_REPLY 1	   /* IP_CT_DIR_REPLY of <linux/netfilter/nf_conntrack_tuple_common.h> */

/* The kernel's struct bpf_ct_opts of 5.18. Newer kernels have a longer one and take this too. */
struct nf_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4_proto;
	__u8 dir; /* out */
	__u8 reserved[2];
};
_Static_assert(sizeof(struct nf_opts) == 12, "struct nf_opts");

/* Only ever pointed to. */
struct nf_conn {
};

/* Of the kernel or its module nf_conntrack; the loader sets cfg_conntrack where they work. */
struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
				  __u32 tuple_size, struct nf_opts *opts,
				  __u32 opts_size) __ksym __weak;
void bpf_ct_release(struct nf_conn *ct) __ksym __weak;

/* Does the packet answer a flow that the stack began, and translated? Tracked are TCP and UDP
 * only. What comes from outside straight to a sandbox is refused before it is tracked. */
static __noinline bool stack_waits_for(struct __sk_buff *skb, const struct pkt *p)
{
	struct nf_opts opts = { .netns_id = NETNS_CURRENT, .l4_proto = p->t.proto };
	struct bpf_sock_tuple t = {};
	struct nf_conn *ct;

	if (!cfg_conntrack || (p->t.proto != IPPROTO_TCP && p->t.proto != IPPROTO_UDP))
		return false;
	if (p->flags & PKT_IP4) {
		t.ipv4.saddr = p->t.saddr.w[3];
		t.ipv4.daddr = p->t.daddr.w[3];
		t.ipv4.sport = p->t.sport;
		t.ipv4.dport = p->t.dport;
		ct = bpf_skb_ct_lookup(skb, &t, sizeof(t.ipv4), &opts, sizeof(opts));
	} else {
		__builtin_memcpy(t.ipv6.saddr, &p->t.saddr, sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, &p->t.daddr, sizeof(t.ipv6.daddr));
		t.ipv6.sport = p->t.sport;
		t.ipv6.dport = p->t.dport;
		ct = bpf_skb_ct_lookup(skb, &t, sizeof(t.ipv6), &opts, sizeof(opts));
	}
	if (!ct)
		return false;
	bpf_ct_release(ct);
	return opts.dir == NF_DIR_REPLY;
}
