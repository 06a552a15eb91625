/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Which nodes of an overlay have listeners of a multicast group: IGMP (RFC 2236, RFC 3376) and MLD
 * (RFC 2710, RFC 3810) snooping, as RFC 4541 recommends it.
 *
 * Each node queries its own members, and its query goes to the other nodes too, as do the members'
 * reports: so every node knows the listeners of all. A group does not age by time, but by queries
 * that nobody answered, so that nothing is forgotten when a node has no querier for a while. Of a
 * node that has not sent three queries, or more groups than there is room for, nothing is
 * concluded: it receives everything.
 */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "count.h"
#include "drop.h"
#include "node.h"
#include "pkt.h"
#include "skb.h"

#ifndef IPPROTO_IGMP
#define IPPROTO_IGMP 2
#endif

#define IGMP_QUERY 0x11
#define IGMP1_REPORT 0x12
#define IGMP2_REPORT 0x16
#define IGMP2_LEAVE 0x17
#define IGMP3_REPORT 0x22
#define MLD_QUERY 130
#define MLD1_REPORT 131
#define MLD1_DONE 132
#define MLD2_REPORT 143

/* Types of records, RFC 3376 section 4.2.12 and RFC 3810 section 5.2.12. */
#define RECORD_IS_EXCLUDE 2
#define RECORD_TO_EXCLUDE 4
#define RECORD_BLOCK 6

/* Groups of a node by a hash: a power of two sets, of a few places each. */
#define GROUP_SETS 16
#define GROUP_WAYS 8

/* Seconds after a query in which its answers arrive. Queriers request them within one second. */
#define GROUP_ANSWERS 2

/* How often a report of a group goes to the other nodes for one query: twice, because one may be
 * lost. */
#define GROUP_TELLS 2

/* All times are CLOCK_MONOTONIC in seconds, 0 for never. */
struct group {
	union ip group;
	__u32 seen; /* when a report came; 0: the place is free */
	union {
		__u32 left; /* of another node: when a member left; 0 again with the next report */
		__u32 told; /* of this node: how many reports the others got since its query */
	};
};

/* fl_group: network and node, this host being 0 -> what it listens to. The control plane makes and
 * removes entries; what is in them belongs to the programs. First index: 0 IPv4, 1 IPv6. */
struct groups_key {
	__u32 net;
	__u32 node;
};

struct groups {
	__u32 asked[2][3]; /* when the last queries came, the latest first */
	__u32 full[2];	   /* when a group found no room */
	__u32 left[2];	   /* of this node: when a member left a group */
	struct group list[GROUP_SETS * GROUP_WAYS];
};
_Static_assert(sizeof(struct groups) == 40 + 24 * GROUP_SETS * GROUP_WAYS, "struct groups");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, struct groups_key);
	__type(value, struct groups);
} fl_group SEC(".maps");

/* What a frame to several members is, for the nodes of its network. */
enum group_kind {
	GROUP_FLOOD,  /* to all of them: broadcast, link-local groups */
	GROUP_DATA,   /* to a group: to those that listen */
	GROUP_REPORT, /* of listeners: to all of them, and to members that are routers */
	GROUP_KNOWN,  /* a report that the nodes need not know */
	GROUP_QUERY,
};

/* Work on a report. */
struct report {
	struct __sk_buff *skb;
	struct groups *groups;
	__u32 off; /* of the next record */
	__u32 now;
	bool is6;
	bool own;  /* of a member on this host */
	bool tell; /* other nodes need it */
};

static __always_inline struct groups *groups_of(__u32 net, __u32 node)
{
	struct groups_key k = { .net = net, .node = node };

	return bpf_map_lookup_elem(&fl_group, &k);
}

/* The first place of the set that a group belongs to. */
static __always_inline __u32 group_set(const union ip *g)
{
	__u32 h = (g->w[0] ^ g->w[1] ^ g->w[2] ^ g->w[3]) * 0x9e3779b1;

	return (h >> 16 & (GROUP_SETS - 1)) * GROUP_WAYS;
}

/* The place of group *g, or NULL. */
static __always_inline struct group *group_find(struct groups *l, const union ip *g)
{
	__u32 set = group_set(g);

	for (__u32 i = 0; i < GROUP_WAYS; i++) {
		struct group *e = &l->list[set + i];

		if (e->seen && ip_equal(&e->group, g))
			return e;
	}
	return NULL;
}

/* Makes a place for group *g: takes a free one, or that of a group without listeners. NULL: there is
 * no room. */
static __always_inline struct group *group_add(struct groups *l, const union ip *g, bool is6,
					       __u32 now)
{
	__u32 set = group_set(g);

	for (__u32 i = 0; i < GROUP_WAYS; i++) {
		struct group *e = &l->list[set + i];
		__u32 seen = e->seen;

		if (seen && (ip_is4(&e->group) == is6 || seen >= l->asked[is6][2]))
			continue;
		if (__sync_val_compare_and_swap(&e->seen, seen, now) != seen)
			continue; /* another processor took it */
		e->group = *g;
		e->left = 0;
		return e;
	}
	l->full[is6] = now;
	count_event(EV_GROUP_FULL);
	return NULL;
}

/* Does a node listen to group *g, as far as is known? */
static __always_inline bool group_listens(__u32 net, __u32 node, const union ip *g)
{
	struct groups *l = groups_of(net, node);
	bool is6 = !ip_is4(g);
	struct group *e;

	if (!l || !l->asked[is6][2] || l->asked[is6][2] <= l->full[is6])
		return true;
	e = group_find(l, g);
	if (!e || e->seen < l->asked[is6][2])
		return false;
	return !e->left || l->asked[is6][0] <= e->left ||
	       now_seconds() - l->asked[is6][0] <= GROUP_ANSWERS;
}

static __always_inline void group_join(struct report *r, const union ip *g)
{
	struct groups *l = r->groups;
	struct group *e = group_find(l, g);

	if (!e)
		e = group_add(l, g, r->is6, r->now);
	if (!e) {
		r->tell = true;
		return;
	}
	if (!r->own) {
		e->left = 0;
	} else {
		if (e->seen <= l->asked[r->is6][0])
			e->told = 0;
		if (e->told < GROUP_TELLS) {
			e->told++;
			r->tell = true;
		}
	}
	e->seen = r->now;
}

/* Others on the node may still listen: its next query finds out. */
static __always_inline void group_leave(struct report *r, const union ip *g)
{
	struct group *e = group_find(r->groups, g);

	r->tell = true;
	if (r->own)
		r->groups->left[r->is6] = r->now;
	if (e)
		e->left = r->own ? 0 : r->now;
}

/* Reads the group at offset off. */
static __always_inline bool group_at(const struct report *r, __u32 off, union ip *g)
{
	if (!r->is6) {
		ip_set4(g, 0);
		return !bpf_skb_load_bytes(r->skb, off, &g->w[3], 4) && ip_is_multicast(g);
	}
	return !bpf_skb_load_bytes(r->skb, off, g, sizeof(*g)) && ip_is_multicast(g);
}

/* Notes a record of a report of IGMPv3 or MLDv2, which have the same form. */
static long group_record(__u32 i, struct report *r)
{
	struct {
		__u8 type;
		__u8 aux; /* length of what follows the sources, in 4 bytes */
		__be16 sources;
	} h = {};
	union ip g = {};
	__u32 off = r->off, size = r->is6 ? 16 : 4, sources;

	(void)i;
	if (bpf_skb_load_bytes(r->skb, off, &h, sizeof(h)))
		return 1;
	sources = bpf_ntohs(h.sources);
	r->off += sizeof(h) + size + sources * size + h.aux * 4;
	if (r->off > r->skb->len)
		return 1; /* cut off */
	if (!group_at(r, off + sizeof(h), &g))
		return 0;
	if (h.type == RECORD_IS_EXCLUDE || h.type == RECORD_TO_EXCLUDE ||
	    (sources && h.type < RECORD_BLOCK))
		group_join(r, &g);
	else
		group_leave(r, &g);
	return 0;
}

/* Notes what the report of type at offset l4 says. */
static __always_inline void group_report(struct report *r, __u8 type, __u32 l4)
{
	union ip g = {};
	__be16 records;

	if (type == (r->is6 ? MLD2_REPORT : IGMP3_REPORT)) {
		r->off = l4 + 8;
		if (!bpf_skb_load_bytes(r->skb, l4 + 6, &records, sizeof(records)))
			bpf_loop(bpf_ntohs(records), group_record, r, 0);
	} else if (group_at(r, l4 + (r->is6 ? 8 : 4), &g)) {
		if (type == (r->is6 ? MLD1_DONE : IGMP2_LEAVE))
			group_leave(r, &g);
		else
			group_join(r, &g);
	}
}

/* Notes a query. One for a single group says nothing of the others. */
static __always_inline void group_query(struct report *r, __u32 l4)
{
	struct groups *l = r->groups;
	union ip g = {};

	if (bpf_skb_load_bytes(r->skb, l4 + (r->is6 ? 8 : 4), &g, r->is6 ? 16 : 4) ||
	    !ip_is_zero(&g) || l->asked[r->is6][0] == r->now)
		return;
	l->asked[r->is6][2] = l->asked[r->is6][1];
	l->asked[r->is6][1] = l->asked[r->is6][0];
	l->asked[r->is6][0] = r->now;
}

/* Groups whose frames every switch forwards (RFC 4541 section 2.1.2), and what is not a group's.
 * Hosts report the others of their link's scope, but duplicates are detected (RFC 4862) through
 * them, which must not depend on that. */
static __always_inline bool group_is_local(const union ip *g)
{
	if (ip_is4(g))
		return g->w[3] == 0xffffffff ||
		       (g->w[3] & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000);
	return (g->b[1] & 0xf) <= 2; /* scope, RFC 4291 section 2.7 */
}

/* What message of IGMP or MLD the packet is, 0 if none. */
static __always_inline __u8 group_message(struct __sk_buff *skb, const struct pkt *p)
{
	__u8 type = 0;

	if (p->flags & PKT_FRAG_LATER)
		return 0;
	if (p->t.proto == IPPROTO_IGMP && p->flags & PKT_IP4)
		bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type));
	else if (p->flags & PKT_ICMP_LOCAL)
		type = p->icmp_type;
	return type;
}

static __always_inline bool is_group_query(__u8 type, bool is6)
{
	return type == (is6 ? MLD_QUERY : IGMP_QUERY);
}

static __always_inline bool is_group_report(__u8 type, bool is6)
{
	if (is6)
		return type == MLD1_REPORT || type == MLD1_DONE || type == MLD2_REPORT;
	return type == IGMP1_REPORT || type == IGMP2_REPORT || type == IGMP2_LEAVE ||
	       type == IGMP3_REPORT;
}

/* What the frame is addressed to is in skb->cb[1] to [4], because the callers' stack is full. */
static __always_inline void group_load(const struct __sk_buff *skb, union ip *group)
{
	group->w[0] = skb->cb[1];
	group->w[1] = skb->cb[2];
	group->w[2] = skb->cb[3];
	group->w[3] = skb->cb[4];
}

static __always_inline void group_store(struct __sk_buff *skb, const union ip *group)
{
	skb->cb[1] = group->w[0];
	skb->cb[2] = group->w[1];
	skb->cb[3] = group->w[2];
	skb->cb[4] = group->w[3];
}

/*
 * group_note says what a frame to several members is, and notes a report or a query. from is its
 * network and node as VIA; port: the node itself sent it. What it is addressed to is left for
 * group_load. In networks that no other node is known of, nothing is noted. Global, so that it is
 * verified once.
 */
__noinline int group_note(struct __sk_buff *skb, __u32 from, bool port)
{
	struct report r = { .skb = skb, .own = !VIA_ID(from) };
	const union ip *group;
	struct pkt p;
	__be16 proto;
	__u8 type;
	int err;

	if (bpf_skb_load_bytes(skb, 2 * ETH_ALEN, &proto, sizeof(proto)) || !is_ip(proto))
		return GROUP_FLOOD;
	err = parse(skb, &p, proto);
	if (err && err != -DROP_FRAG_UNKNOWN)
		return GROUP_FLOOD;
	group = &p.t.daddr;
	group_store(skb, group);
	r.groups = groups_of(VIA_NET(from), VIA_ID(from));
	if (!ip_is_multicast(group) || !r.groups)
		return GROUP_FLOOD;
	r.is6 = !(p.flags & PKT_IP4);
	type = group_message(skb, &p);
	r.now = now_seconds();
	if (is_group_query(type, r.is6)) {
		if (port)
			group_query(&r, p.l4);
		return GROUP_QUERY;
	}
	if (is_group_report(type, r.is6)) {
		if (!port)
			group_report(&r, type, p.l4);
		return r.tell ? GROUP_REPORT : GROUP_KNOWN;
	}
	return group_is_local(group) ? GROUP_FLOOD : GROUP_DATA;
}
