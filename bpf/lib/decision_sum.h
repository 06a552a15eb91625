/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Checksums of packets that a cached decision rewrites. */

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "config.h"
#include "csum.h"
#include "decision.h"

/* Provided by the kernel (6.2); the loader sets cfg_kern_ctx where it is. */
void *bpf_cast_to_kern_ctx(void *obj) __ksym __weak;

/* The kernel's struct, of which only this field is read. */
struct sk_buff___summed {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

/* sk_buff.ip_summed (include/linux/skbuff.h); SUM_UNKNOWN: this kernel does not show it. */
enum summed {
	SUM_NONE,
	SUM_UNNECESSARY,
	SUM_COMPLETE,
	SUM_PARTIAL,
	SUM_UNKNOWN,
};

static __always_inline enum summed summed(struct __sk_buff *skb)
{
	struct sk_buff___summed *k;

	if (!cfg_kern_ctx)
		return SUM_UNKNOWN;
	k = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(k, ip_summed);
}

/* Updates the checksum at *check of layer 4. */
static __always_inline void decision_sum(__sum16 *check, const struct decision *d, bool udp,
					 enum summed summed)
{
	__u16 sum;

	if (summed == SUM_PARTIAL) { /* that of the pseudo-header only */
		*check = csum_fold((__u64)*check + d->sum_addrs);
		return;
	}
	if (udp && !*check)
		return; /* there is none */
	sum = ~csum_fold((__u64)(__u16) ~*check + d->sum_addrs + d->sum_ports);
	*check = udp && !sum ? 0xffff : sum;
}

/* The same by the kernel's helpers, which know what sum the packet has. */
static __always_inline bool decision_sum_helper(struct __sk_buff *skb, const struct decision *d,
						bool is4, bool udp, __u32 check)
{
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(skb, check, 0, d->sum_ports, flags) ||
	    bpf_l4_csum_replace(skb, check, 0, d->sum_addrs, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (!is4)
		bpf_csum_update(skb, d->sum_addrs); /* as in sum_addrs() */
	return true;
}
