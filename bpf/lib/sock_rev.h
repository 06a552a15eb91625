/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Sockets of the host that were redirected to a backend (sock.bpf.c). */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"

/* fl_sock_rev: the published address that a host socket was redirected from */
struct sock_rev_key {
	__u64 cookie;
	union ip addr; /* backend */
	__be16 port;
	__u8 pad[6];
};
_Static_assert(sizeof(struct sock_rev_key) == 32, "struct sock_rev_key");

struct sock_rev {
	union ip addr; /* the original destination */
	__be16 port;
	__u16 pad;
	__u32 publish;
	__u64 until; /* CLOCK_MONOTONIC, ns: end of the wait for replies; all ones if connected */
};
_Static_assert(sizeof(struct sock_rev) == 32, "struct sock_rev");

/* Host sockets redirected to a backend; the oldest is evicted first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct sock_rev_key);
	__type(value, struct sock_rev);
} fl_sock_rev SEC(".maps");
