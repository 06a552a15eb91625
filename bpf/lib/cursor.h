/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * A packet's bytes, as parse.h reads them. Only this header depends on the type of the program's
 * context, so that a program of another type than tc can share the parser.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

struct cursor {
	struct __sk_buff *ctx;
	void *data; /* the bytes that can be read directly, up to data_end */
	void *data_end;
	__u32 len;     /* of the packet, in bytes */
	__u32 segment; /* data of each segment of a GSO packet, in bytes; else 0 */
};

static __always_inline void cursor_begin(struct cursor *c, struct __sk_buff *skb)
{
	c->ctx = skb;
	c->data = (void *)(long)skb->data;
	c->data_end = (void *)(long)skb->data_end;
	c->len = skb->len;
	c->segment = skb->gso_size;
}

/* Makes the first len bytes readable directly. Returns false if the packet is shorter. */
static __always_inline bool cursor_have(struct cursor *c, __u32 len)
{
	if (c->data + len <= c->data_end)
		return true;
	if (bpf_skb_pull_data(c->ctx, len))
		return false;
	c->data = (void *)(long)c->ctx->data;
	c->data_end = (void *)(long)c->ctx->data_end;
	return c->data + len <= c->data_end;
}

/* Copies len bytes at offset off, wherever they are. */
static __always_inline bool cursor_load(const struct cursor *c, __u32 off, void *to, __u32 len)
{
	return !bpf_skb_load_bytes(c->ctx, off, to, len);
}
