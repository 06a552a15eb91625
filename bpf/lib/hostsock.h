/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Lookup of sockets of the host itself. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "tuple.h"

/* Fills *st with the flow a packet t belongs to at its receiver; returns the length to look up. */
static __always_inline __u32 sock_tuple(struct bpf_sock_tuple *st, const struct tuple *t)
{
	__builtin_memset(st, 0, sizeof(*st));
	if (ip_is4(&t->saddr)) {
		st->ipv4.saddr = t->saddr.w[3];
		st->ipv4.daddr = t->daddr.w[3];
		st->ipv4.sport = t->sport;
		st->ipv4.dport = t->dport;
		return sizeof(st->ipv4);
	}
	__builtin_memcpy(st->ipv6.saddr, &t->saddr, 16);
	__builtin_memcpy(st->ipv6.daddr, &t->daddr, 16);
	st->ipv6.sport = t->sport;
	st->ipv6.dport = t->dport;
	return sizeof(st->ipv6);
}

/* Does a socket of the host use the flow of *st already? */
static __always_inline bool host_socket(struct __sk_buff *skb, struct bpf_sock_tuple *st, __u32 len,
					__u8 proto)
{
	struct bpf_sock *sk;

	if (proto == IPPROTO_TCP)
		sk = bpf_skc_lookup_tcp(skb, st, len, BPF_F_CURRENT_NETNS, 0);
	else if (proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, st, len, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/* Is the packet a reply to a socket of the host that is connected to its sender? The kernel
 * chose its port, which happens to be published. */
static __always_inline bool host_connected(struct __sk_buff *skb, const struct tuple *t)
{
	struct bpf_sock_tuple st;
	struct bpf_sock *sk;
	bool connected;

	sk = bpf_sk_lookup_udp(skb, &st, sock_tuple(&st, t), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	connected = sk->dst_port;
	bpf_sk_release(sk);
	return connected;
}
