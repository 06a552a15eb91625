/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Is a port published at any address? One lookup in an array. */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

/* One bit per port and protocol: is it published at any address? Saves all other packets the
 * lookups in fl_publish, and excludes these ports from SNAT. */
#define PORTBITS_WORDS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * PORTBITS_WORDS); /* TCP, then UDP */
	__type(key, __u32);
	__type(value, __u64);
} fl_portbits SEC(".maps");

static __always_inline bool port_published(__u8 proto, __be16 port)
{
	__u32 n = bpf_ntohs(port);
	__u32 word = n / 64 + (proto == IPPROTO_UDP ? PORTBITS_WORDS : 0);
	__u64 *bits;

	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return false;
	bits = bpf_map_lookup_elem(&fl_portbits, &word);
	return bits && (*bits >> (n % 64)) & 1;
}
