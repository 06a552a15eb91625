/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The packet's buffer. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

/* have makes the first len bytes readable directly. It returns false if the packet is shorter.
 * It may move the packet. */
static __always_inline bool have(struct __sk_buff *skb, __u32 len)
{
	if (skb->data + (__u64)len <= skb->data_end)
		return true;
	return !bpf_skb_pull_data(skb, len) && skb->data + (__u64)len <= skb->data_end;
}

#define DATA(skb, off) ((void *)(long)(skb)->data + (off))
#define DATA_END(skb) ((void *)(long)(skb)->data_end)
