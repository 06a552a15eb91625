/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Addresses. Both families have one 16-byte form: IPv6 as it is, IPv4 mapped (::ffff:a.b.c.d, RFC
 * 4291 section 2.5.5.2).
 *
 * In all headers: NBO is network byte order, HBO host byte order. The structs of maps are shared
 * with Go (bpf2go generates the Go side). None has implicit padding, so that two equal keys are
 * equal bytes.
 */

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

union ip {
	__u8 b[16]; /* first: bpf2go turns a union into its first member */
	__be32 w[4];
	__u64 d[2];
};

static __always_inline bool ip_equal(const union ip *a, const union ip *b)
{
	return a->d[0] == b->d[0] && a->d[1] == b->d[1];
}

static __always_inline bool ip_is_zero(const union ip *a)
{
	return !(a->d[0] | a->d[1]);
}

static __always_inline bool ip_is4(const union ip *a)
{
	return !a->d[0] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline void ip_set4(union ip *a, __be32 v4)
{
	a->d[0] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline void ip_set6(union ip *a, const void *v6)
{
	__builtin_memcpy(a, v6, sizeof(*a));
}

/* 127.0.0.0/8 or ::1 (RFC 6890). */
static __always_inline bool ip_is_loopback(const union ip *a)
{
	if (ip_is4(a))
		return a->b[12] == 127;
	return !a->d[0] && !a->w[2] && a->w[3] == bpf_htonl(1);
}

/* 0.0.0.0/8 ("this network", RFC 6890) or ::. */
static __always_inline bool ip_is_unspecified(const union ip *a)
{
	return ip_is4(a) ? !a->b[12] : ip_is_zero(a);
}

/* 224.0.0.0/4, 255.255.255.255 or ff00::/8. 240.0.0.0/4 is unicast to Linux. */
static __always_inline bool ip_is_multicast(const union ip *a)
{
	if (ip_is4(a))
		return (a->b[12] & 0xf0) == 0xe0 || a->w[3] == 0xffffffff;
	return a->b[0] == 0xff;
}

/* fe80::/10 (RFC 4291 section 2.5.6); the IPv4 range 169.254.0.0/16 is routed like any other. */
static __always_inline bool ip_is_linklocal6(const union ip *a)
{
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

/* The link-local address an interface derives from its MAC: modified EUI-64,
 * RFC 4291 appendix A. */
static __always_inline bool ip_is_eui64(const union ip *a, const __u8 *mac)
{
	return a->w[0] == bpf_htonl(0xfe800000) && !a->w[1] && a->b[8] == (mac[0] ^ 2) &&
	       a->b[9] == mac[1] && a->b[10] == mac[2] && a->b[11] == 0xff && a->b[12] == 0xfe &&
	       a->b[13] == mac[3] && a->b[14] == mac[4] && a->b[15] == mac[5];
}

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		 (a[5] ^ b[5]));
}
