/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Parsing: once, into one struct pkt. Functions return 0 or -DROP_X. They may move the packet:
 * pointers into it taken before are invalid afterwards.
 */

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include "clock.h"
#include "count.h"
#include "ip.h"

/* <linux/icmp.h> includes the C library. RFC 792, RFC 4443. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4 /* code */
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_TIMESTAMP 13
#define ICMP_TIMESTAMPREPLY 14
#define ICMP_INFO_REQUEST 15
#define ICMP_INFO_REPLY 16
#define ICMP_ADDRESS 17
#define ICMP_ADDRESSREPLY 18
#define ICMP_EXT_ECHO 42 /* RFC 8335 */
#define ICMP_EXT_ECHOREPLY 43
#define ICMPV6_PKT_TOOBIG 2
#define ICMPV6_TIME_EXCEED 3
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_NI_QUERY 139 /* RFC 4620 */
#define ICMPV6_NI_REPLY 140
#define ICMPV6_DHAAD_REQUEST 144 /* of mobile hosts, RFC 6275 */
#define ICMPV6_DHAAD_REPLY 145
#define ICMPV6_MOBILE_PREFIX_SOL 146
#define ICMPV6_MOBILE_PREFIX_ADV 147
#define ICMPV6_EXT_ECHO_REQUEST 160 /* RFC 8335 */
#define ICMPV6_EXT_ECHO_REPLY 161

/* Kinds of TCP options, RFC 9293 section 3.2 and RFC 7323. */
#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_WSCALE 3

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

enum pkt_flag {
	PKT_FRAG_FIRST = 1 << 0, /* first of several fragments */
	PKT_FRAG_LATER = 1 << 1, /* a later one, without a layer 4 header */
	PKT_ICMP_ERROR = 1 << 2, /* embeds the packet it is about */
	PKT_IP4 = 1 << 3,
	PKT_DF = 1 << 4,	 /* must not be fragmented on the way */
	PKT_ICMP_LOCAL = 1 << 5, /* link-local ICMPv6 (icmp6_is_local), never routed */
};

/* Devices without an Ethernet header are not supported: the IP header is always here. */
#define L3 ETH_HLEN

/* Kept small, because it is on the stack of the deepest chain of calls. */
struct pkt {
	struct tuple t;
	__u32 len; /* of one IP packet, in bytes; of one segment if GSO */
	__u16 l4;  /* offset of the layer 4 header */
	union {
		__u16 win;	 /* TCP: as the header has it, HBO */
		__u8 frag_proto; /* of fragments: as in struct frag_key */
	};
	__u8 flags; /* enum pkt_flag */
	__u8 ttl;
	__u8 tcp_flags; /* byte 13 of the TCP header */
	union {
		__u8 icmp_type;
		__u8 scale; /* SYN: shift of the sender's windows, or TCP_NO_SCALE */
	};
	/* TCP, HBO; fragments have none: */
	__u32 seq;
	__u32 seq_end; /* after the last byte; SYN and FIN count as one */
	union {
		__u32 ack;
		__u32 frag_id; /* of fragments, NBO */
	};
};
_Static_assert(sizeof(struct pkt) == 64, "struct pkt");

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define TCP_NO_SCALE 0x80
#define TCP_MAX_SCALE 14 /* RFC 7323 section 2.3 */
#define TCP_OPTIONS_MAX 16

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

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Does the message embed the packet that it is about? */
static __always_inline bool icmp_is_error(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMPV6)
		return type < 128;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT;
}

/* A redirect names routers on the link, which a host behind a translation cannot reach. */
static __always_inline bool icmp_redirects(const struct pkt *p)
{
	return p->flags & PKT_IP4 && p->icmp_type == ICMP_REDIRECT;
}

/* The type of the requests that ICMP of this type answers; 0 if it is not a reply. */
static __always_inline __u8 icmp_question(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP) {
		switch (type) {
		case ICMP_ECHOREPLY:
			return ICMP_ECHO;
		case ICMP_TIMESTAMPREPLY:
		case ICMP_INFO_REPLY:
		case ICMP_ADDRESSREPLY:
		case ICMP_EXT_ECHOREPLY:
			return type - 1;
		}
		return 0;
	}
	switch (type) {
	case ICMPV6_ECHO_REPLY:
	case ICMPV6_NI_REPLY:
	case ICMPV6_DHAAD_REPLY:
	case ICMPV6_MOBILE_PREFIX_ADV:
	case ICMPV6_EXT_ECHO_REPLY:
		return type - 1;
	}
	return 0;
}

/* Do requests of this type have an id, which the reply repeats? All have it in the same place
 * (RFC 792, RFC 950, and those above). */
static __always_inline bool icmp_has_id(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == ICMP_ECHO || type == ICMP_TIMESTAMP || type == ICMP_INFO_REQUEST ||
		       type == ICMP_ADDRESS || type == ICMP_EXT_ECHO;
	return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_DHAAD_REQUEST ||
	       type == ICMPV6_MOBILE_PREFIX_SOL || type == ICMPV6_EXT_ECHO_REQUEST;
}

/* Fills the fields that distinguish ICMP flows; id: the 16 bits where an id would be. */
static __noinline void icmp_tuple(struct tuple *t, __u8 type, __be16 id)
{
	t->answer = icmp_question(t->proto, type);
	if (!t->answer)
		t->ask = type;
	if (!icmp_has_id(t->proto, t->ask | t->answer))
		return;
	if (t->answer)
		t->dport = id;
	else
		t->sport = id;
}

/* Messages whose receiver is on the same link by definition: multicast listener discovery (RFC
 * 2710, RFC 3810), neighbour discovery (RFC 4861), inverse neighbour discovery (RFC 3122),
 * certification paths (RFC 3971), multicast router discovery (RFC 4286). All others are routed. */
static __always_inline bool icmp6_is_local(__u8 type)
{
	return (type >= 130 && type <= 137) || (type >= 141 && type <= 143) || type == 148 ||
	       type == 149 || (type >= 151 && type <= 153);
}

/* Reads len bytes at offset off of layer 4. plain is where layer 4 begins without options or
 * extension headers: there it is read in place, which saves a call per packet. */
static __always_inline bool l4_read(struct __sk_buff *skb, const struct pkt *p, __u32 plain,
				    __u32 off, void *to, __u32 len)
{
	void *from = DATA(skb, plain + off);

	if (p->l4 != plain || from + len > DATA_END(skb))
		return !bpf_skb_load_bytes(skb, p->l4 + off, to, len);
	__builtin_memcpy(to, from, len);
	return true;
}

/* The window scale that a SYN requests, whose options are from off to end (RFC 7323 section
 * 2.2). */
static __always_inline __u8 tcp_scale(struct __sk_buff *skb, __u32 off, __u32 end)
{
	__u8 o[3] = {}; /* kind, length, value */

	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		if (off + sizeof(o) > end || bpf_skb_load_bytes(skb, off, o, sizeof(o)))
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
static __always_inline int parse_tcp(struct __sk_buff *skb, struct pkt *p, __u32 plain, __u32 *len)
{
	struct {
		__be32 seq;
		__be32 ack;
		__u8 off; /* data offset in 32-bit words, upper half */
		__u8 flags;
		__be16 win;
	} h = {}; /* from byte 4: RFC 9293 section 3.1 */
	__s32 payload;

	if (!l4_read(skb, p, plain, 4, &h, sizeof(h)))
		return -DROP_MALFORMED;
	*len = (h.off >> 4) * 4;
	if (*len < sizeof(struct tcphdr) || skb->len < p->l4 + *len)
		return -DROP_MALFORMED;
	p->tcp_flags = h.flags;
	if (p->flags & PKT_FRAG_FIRST)
		return 0;
	p->seq = bpf_ntohl(h.seq);
	p->ack = bpf_ntohl(h.ack);
	p->win = bpf_ntohs(h.win);
	/* Ethernet pads short packets, and the length in the header of a GSO packet may be 0. */
	payload = (skb->gso_size ? skb->len : p->len + L3) - p->l4 - *len;
	p->seq_end = p->seq + (payload > 0 ? payload : 0) + (h.flags & TCP_FIN);
	if (h.flags & TCP_SYN) {
		p->seq_end++;
		p->scale = tcp_scale(skb, p->l4 + sizeof(struct tcphdr), p->l4 + *len);
	}
	return 0;
}

/* Fills the ports (or the ICMP id) and flags from the layer 4 header at p->l4; plain: see
 * l4_read. */
static __always_inline int parse_l4(struct __sk_buff *skb, struct pkt *p, __u32 plain)
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
	if (!l4_read(skb, p, plain, 0, &h, sizeof(h)))
		return -DROP_MALFORMED;
	if (p->t.proto == IPPROTO_TCP && parse_tcp(skb, p, plain, &len))
		return -DROP_MALFORMED;
	/* A GSO packet leaves as segments; the header's length does not describe them (and is 0
	 * with BIG TCP). */
	if (skb->gso_size)
		p->len = p->l4 - L3 + len + skb->gso_size;
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

/* The fields that the first and the later fragments of a packet share. */
static __always_inline void frag_key_of(struct frag_key *k, const struct pkt *p)
{
	k->saddr = p->t.saddr;
	k->daddr = p->t.daddr;
	k->id = p->frag_id;
	k->proto = p->frag_proto;
	k->pad[0] = 0;
	k->pad[1] = 0;
	k->pad[2] = 0;
}

/* The data recorded from the first of these fragments, while others may still arrive; else
 * NULL. */
static __always_inline struct frag_entry *frag_find(const struct frag_key *k)
{
	struct frag_entry *v = bpf_map_lookup_elem(&fl_frag, k);

	return v && (__s32)(v->expires - now_seconds()) > 0 ? v : NULL;
}

static __always_inline int frag_recall(struct pkt *p)
{
	struct frag_entry *v;
	struct frag_key k;

	frag_key_of(&k, p);
	v = frag_find(&k);
	if (!v)
		return -DROP_FRAG_UNKNOWN;
	p->t.sport = v->sport;
	p->t.dport = v->dport;
	p->t.proto = v->proto;
	p->t.ask = v->ask;
	p->t.answer = v->answer;
	return 0;
}

static __always_inline int parse_ip4(struct __sk_buff *skb, struct pkt *p)
{
	struct iphdr *ip;
	__u16 frag;

	if (!have(skb, L3 + sizeof(*ip)))
		return -DROP_MALFORMED;
	ip = DATA(skb, L3);
	if ((void *)(ip + 1) > DATA_END(skb) || ip->ihl < 5 || ip->version != 4)
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
	return parse_l4(skb, p, L3 + sizeof(*ip));
}

/* Limit of the extension headers walked; RFC 8200 section 4.1 lists seven kinds. */
#define EXTHDRS_MAX 8

static __always_inline bool is_exthdr(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT;
}

/* Walks the extension headers up to layer 4, leaving proto and l4 there. */
static __always_inline int skip_exthdrs(struct __sk_buff *skb, struct pkt *p)
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
		if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
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

static __always_inline int parse_ip6(struct __sk_buff *skb, struct pkt *p)
{
	struct ipv6hdr *ip;
	int err;

	if (!have(skb, L3 + sizeof(*ip)))
		return -DROP_MALFORMED;
	ip = DATA(skb, L3);
	if ((void *)(ip + 1) > DATA_END(skb) || ip->version != 6)
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
	err = skip_exthdrs(skb, p);
	if (err || (p->flags & PKT_FRAG_LATER))
		return err;
	return parse_l4(skb, p, L3 + sizeof(*ip));
}

/* Fills *p, which is all zero. Global, so that it is verified once. */
__noinline int parse_into(struct __sk_buff *skb, struct pkt *p, __be16 eth_proto)
{
	int err;

	if (!p)
		return -DROP_MALFORMED;
	err = eth_proto == bpf_htons(ETH_P_IP) ? parse_ip4(skb, p) : parse_ip6(skb, p);
	if (err)
		return err;
	if (p->flags & PKT_FRAG_LATER)
		return frag_recall(p);
	return 0;
}

/* parse fills *p from an IP packet. eth_proto: ETH_P_IP or ETH_P_IPV6, NBO. Later fragments get
 * their ports from the first. */
static __always_inline int parse(struct __sk_buff *skb, struct pkt *p, __be16 eth_proto)
{
	/* Here, because kernel 6.1 passes only initialised memory to a global function. */
	__builtin_memset(p, 0, sizeof(*p));
	return parse_into(skb, p, eth_proto);
}

static __always_inline bool is_ip(__be16 eth_proto)
{
	return eth_proto == bpf_htons(ETH_P_IP) || eth_proto == bpf_htons(ETH_P_IPV6);
}
