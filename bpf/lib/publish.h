/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Published ports: which backend serves (host address, port, protocol)? */

#include "flow.h"
#include "member.h"

/* The address that stands for every address of the host, in t's family. */
static __always_inline void publish_wildcard(union ip *a, bool is4)
{
	a->d[0] = 0;
	a->d[1] = 0;
	if (is4)
		a->w[2] = bpf_htonl(0xffff);
}

/* The publish that serves the port at addr, an address of the host. Not inlined, to save stack. */
static __noinline struct publish *publish_find(const union ip *addr, __be16 port, __u8 proto)
{
	struct publish_key k = { .addr = *addr, .port = port, .proto = proto };
	struct publish *b;

	b = bpf_map_lookup_elem(&fl_publish, &k);
	if (b || names_served(addr, port))
		return b;
	publish_wildcard(&k.addr, ip_is4(addr));
	return bpf_map_lookup_elem(&fl_publish, &k);
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

/* May this packet begin a flow to a published port? For TCP only a SYN may: any other packet
 * belongs to a connection of the host whose local port happens to be published. */
static __always_inline bool publish_may_begin(const struct pkt *p)
{
	if (p->t.proto == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return false;
	return port_published(p->t.proto, p->t.dport);
}
