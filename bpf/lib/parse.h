/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Parsing: once, into one struct pkt. Functions return 0 or -DROP_X. They may move the packet:
 * pointers into it taken before are invalid afterwards. Programs use parse() of skb.h.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "addr.h"
#include "cursor.h"
#include "drop.h"
#include "frag.h"
#include "icmp.h"
#include "pkt.h"

/* Kinds of TCP options, RFC 9293 section 3.2 and RFC 7323. */
#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_WSCALE 3

#define TCP_MAX_SCALE 14 /* RFC 7323 section 2.3 */
#define TCP_OPTIONS_MAX 16

/* Reads len bytes at offset off of layer 4. plain is where layer 4 begins without options or
 * extension headers: there it is read in place, which saves a call per packet. */
static __always_inline bool l4_read(struct cursor *c, const struct pkt *p, __u32 plain, __u32 off,
				    void *to, __u32 len)
{
	void *from = c->data + plain + off;

	if (p->l4 != plain || from + len > c->data_end)
		return cursor_load(c, p->l4 + off, to, len);
	__builtin_memcpy(to, from, len);
	return true;
}

/* The window scale that a SYN requests, whose options are from off to end (RFC 7323 section
 * 2.2). */
static __always_inline __u8 tcp_scale(struct cursor *c, __u32 off, __u32 end)
{
	__u8 o[3] = {}; /* kind, length, value */

	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		if (off + sizeof(o) > end || !cursor_load(c, off, o, sizeof(o)))
			break;
		if (o[0] == TCPOPT_WSCALE)
			return o[2] > TCP_MAX_SCALE ? TCP_MAX_SCALE : o[2];
		if (o[0] == TCPOPT_NOP)
			off++;
		else if (o[0] == TCPOPT_EOL || o[1] < 2)
			break;
		else
			off += o[1];
	}
	return TCP_NO_SCALE;
}

/* Fills the flags and sequence numbers, and *len with the length of the header; plain: see
 * l4_read. p->len is still the length from the IP header. */
static __always_inline int parse_tcp(struct cursor *c, struct pkt *p, __u32 plain, __u32 *len)
{
	struct {
		__be32 seq;
		__be32 ack;
		__u8 off; /* data offset in 32-bit words, upper half */
		__u8 flags;
		__be16 win;
	} h = {}; /* from byte 4: RFC 9293 section 3.1 */
	__s32 payload;

	if (!l4_read(c, p, plain, 4, &h, sizeof(h)))
		return -DROP_MALFORMED;
	*len = (h.off >> 4) * 4;
	if (*len < sizeof(struct tcphdr) || c->len < p->l4 + *len)
		return -DROP_MALFORMED;
	p->tcp_flags = h.flags;
	if (p->flags & PKT_FRAG_FIRST)
		return 0;
	p->seq = bpf_ntohl(h.seq);
	p->ack = bpf_ntohl(h.ack);
	p->win = bpf_ntohs(h.win);
	/* Ethernet pads short packets, and the length in the header of a GSO packet may be 0. */
	payload = (c->segment ? c->len : p->len + L3) - p->l4 - *len;
	p->seq_end = p->seq + (payload > 0 ? payload : 0) + (h.flags & TCP_FIN);
	if (h.flags & TCP_SYN) {
		p->seq_end++;
		p->scale = tcp_scale(c, p->l4 + sizeof(struct tcphdr), p->l4 + *len);
	}
	return 0;
}

/* Fills the ports (or the ICMP id) and flags from the layer 4 header at p->l4; plain: see
 * l4_read. */
static __always_inline int parse_l4(struct cursor *c, struct pkt *p, __u32 plain)
{
	struct {
		__be16 sport;
		__be16 dport;
		__be16 x2; /* ICMP: id */
		__be16 x3;
	} h = {}; /* kernel 6.18's verifier: a helper must not be first to use a stack slot */
	__u32 len = sizeof(h);

	if (!has_ports(p->t.proto) && p->t.proto != IPPROTO_ICMP && p->t.proto != IPPROTO_ICMPV6)
		return 0;
	if (!l4_read(c, p, plain, 0, &h, sizeof(h)))
		return -DROP_MALFORMED;
	if (p->t.proto == IPPROTO_TCP && parse_tcp(c, p, plain, &len))
		return -DROP_MALFORMED;
	/* A GSO packet leaves as segments; the header's length does not describe them (and is 0
	 * with BIG TCP). */
	if (c->segment)
		p->len = p->l4 - L3 + len + c->segment;
	if (has_ports(p->t.proto)) {
		p->t.sport = h.sport;
		p->t.dport = h.dport;
		return 0;
	}
	/* The type is the first byte of the header on the wire. */
	p->icmp_type = bpf_ntohs(h.sport) >> 8;
	if (icmp_is_error(p->t.proto, p->icmp_type))
		p->flags |= PKT_ICMP_ERROR;
	else if (p->t.proto == IPPROTO_ICMPV6 && icmp6_is_local(p->icmp_type))
		p->flags |= PKT_ICMP_LOCAL;
	else
		icmp_tuple(&p->t, p->icmp_type, h.x2);
	return 0;
}

static __always_inline int parse_ip4(struct cursor *c, struct pkt *p)
{
	struct iphdr *ip;
	__u16 frag;

	if (!cursor_have(c, L3 + sizeof(*ip)))
		return -DROP_MALFORMED;
	ip = c->data + L3;
	if (ip->ihl < 5 || ip->version != 4)
		return -DROP_MALFORMED;
	ip_set4(&p->t.saddr, ip->saddr);
	ip_set4(&p->t.daddr, ip->daddr);
	p->t.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->l4 = L3 + ip->ihl * 4;
	p->len = bpf_ntohs(ip->tot_len);
	p->flags = PKT_IP4;
	frag = bpf_ntohs(ip->frag_off);
	if (frag & IP_DF)
		p->flags |= PKT_DF;
	p->frag_id = ip->id;
	p->frag_proto = ip->protocol;
	if (frag & IP_OFFSET) {
		p->flags |= PKT_FRAG_LATER;
		return 0;
	}
	if (frag & IP_MF)
		p->flags |= PKT_FRAG_FIRST;
	return parse_l4(c, p, L3 + sizeof(*ip));
}

/* Limit of the extension headers walked; RFC 8200 section 4.1 lists seven kinds. */
#define EXTHDRS_MAX 8

static __always_inline bool is_exthdr(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT;
}

/* Walks the extension headers up to layer 4, leaving proto and l4 there. */
static __always_inline int skip_exthdrs(struct cursor *c, struct pkt *p)
{
	struct {
		__u8 next;
		__u8 len;
		__be16 frag_off;
		__be32 frag_id;
	} h;

	for (int i = 0; i < EXTHDRS_MAX; i++) {
		if (!is_exthdr(p->t.proto))
			return 0;
		if (!cursor_load(c, p->l4, &h, sizeof(h)))
			return -DROP_MALFORMED;
		if (p->t.proto == IPPROTO_FRAGMENT) {
			p->frag_id = h.frag_id;
			p->frag_proto = h.next;
			p->l4 += 8;
			p->t.proto = h.next;
			/* offset in the upper 13 bits, M in the lowest */
			if (bpf_ntohs(h.frag_off) & 0xfff8) {
				p->flags |= PKT_FRAG_LATER;
				return 0;
			}
			if (bpf_ntohs(h.frag_off) & 1)
				p->flags |= PKT_FRAG_FIRST;
			continue;
		}
		p->l4 += (h.len + 1) * 8;
		p->t.proto = h.next;
	}
	return -DROP_MALFORMED;
}

static __always_inline int parse_ip6(struct cursor *c, struct pkt *p)
{
	struct ipv6hdr *ip;
	int err;

	if (!cursor_have(c, L3 + sizeof(*ip)))
		return -DROP_MALFORMED;
	ip = c->data + L3;
	if (ip->version != 6)
		return -DROP_MALFORMED;
	ip_set6(&p->t.saddr, &ip->saddr);
	ip_set6(&p->t.daddr, &ip->daddr);
	p->t.proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->l4 = L3 + sizeof(*ip);
	p->len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	p->flags = PKT_DF;
	/* In the common form such addresses equal IPv4 addresses and would match their flows.
	 * No host sends them (RFC 4038 section 4.2), and Linux does not accept them. */
	if (ip_is4(&p->t.saddr) || ip_is4(&p->t.daddr))
		return -DROP_MARTIAN;
	err = skip_exthdrs(c, p);
	if (err || (p->flags & PKT_FRAG_LATER))
		return err;
	return parse_l4(c, p, L3 + sizeof(*ip));
}

/* Fills *p, which is all zero, from the packet at c. Later fragments get their ports from the
 * first. */
static __always_inline int parse_packet(struct cursor *c, struct pkt *p, __be16 eth_proto)
{
	int err = eth_proto == bpf_htons(ETH_P_IP) ? parse_ip4(c, p) : parse_ip6(c, p);

	if (err)
		return err;
	return p->flags & PKT_FRAG_LATER ? frag_recall(p) : 0;
}
