/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Is a port published at any address? One lookup in an array. */

#include <bpf/bpf_endian.h>
#include <linux/in.h>
#include <stdbool.h>
#include "maps.h"

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
