/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Flow state. A flow has two entries, one a direction, each holding all a
 * packet of that direction needs; so an established packet costs one lookup.
 *
 * Flows nobody has answered are in fl_ct_new, which recycles; a flow moves to
 * fl_ct, which does not, when its handshake is complete (TCP) or the first
 * answer comes (others). So a flood of first packets cannot evict real flows.
 */

#include "config.h"
#include "pkt.h"

/* CLOCK_MONOTONIC in seconds, at the resolution of the timer tick. */
static __always_inline __u32 now_seconds(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000ULL;
}

static __always_inline __u32 ct_timeout(__u8 state)
{
	__u32 i = state;

	/* Kernel 6.1 loses the bound: clang tests a copy and indexes with the
	 * original ("R0 max value is outside of the allowed memory range"). */
	barrier_var(i);
	return i < CT_STATE_MAX ? cfg_timeout[i] : 0;
}

/* Seconds an unanswered flow that began in its middle is kept: of those there can be many that
 * nobody owns, and each holds a port (nf_conntrack_tcp_timeout_unacknowledged). */
#define CT_UNANSWERED 300

/* When a flow in this state expires. */
static __always_inline __u32 ct_expires(__u32 now, __u8 state, bool confirmed)
{
	__u32 timeout = ct_timeout(state);

	if (!confirmed && state == CT_ESTABLISHED && timeout > CT_UNANSWERED)
		timeout = CT_UNANSWERED;
	return now + timeout;
}

static __always_inline struct ct_entry *ct_find(const struct tuple *t, bool *confirmed)
{
	struct ct_entry *e = bpf_map_lookup_elem(&fl_ct, t);

	*confirmed = e;
	return e ? e : bpf_map_lookup_elem(&fl_ct_new, t);
}

/* The other entry of the flow whose packets key find e. In fl_ct_new another flow may have taken
 * its place since it was recycled: NULL then too. */
static __always_inline struct ct_entry *ct_partner(const struct tuple *key,
						   const struct ct_entry *e, bool confirmed)
{
	struct ct_entry *o;
	struct tuple k;

	tuple_reverse(&k, &e->xlat);
	if (confirmed)
		o = bpf_map_lookup_elem(&fl_ct, &k);
	else
		o = bpf_map_lookup_elem(&fl_ct_new, &k);
	if (!o)
		return NULL;
	tuple_reverse(&k, key);
	return tuple_equal(&o->xlat, &k) ? o : NULL;
}

/* What flow_create is to make. */
struct flow {
	struct ct_entry e;     /* of the first packet's direction; flags and times are filled in */
	struct ct_entry reply; /* scratch */
	struct tuple key;      /* scratch */
	struct tuple rkey;     /* scratch */
	__u32 host_src; /* e.xlat.saddr is the host's: keep off its sockets and published ports */
	__u32 gateway;	/* it is a gateway's: see GATEWAY_PORT_MAX */
};

/* Too big for the stack. Programs of one CPU do not interrupt each other between
 * flow_scratch() and the last use: tc programs run with bottom halves off. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} fl_scratch SEC(".maps");

static __always_inline struct flow *flow_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_scratch, &zero);
}

/* The partner an entry must have, from the entry itself. */
static __always_inline void ct_make_partner(struct ct_entry *out, const struct tuple *key,
					    const struct ct_entry *e)
{
	*out = *e;
	tuple_reverse(&out->xlat, key);
	out->in_if = e->out_if;
	out->out_if = e->in_if;
	out->flags = (e->flags ^ CT_F_REPLY) &
		     (CT_F_REPLY | CT_F_HOST | CT_F_STACK | CT_F_NAT_SRC | CT_F_NAT_DST);
}

/* First state of a flow, by its first packet. */
static __always_inline __u8 ct_first_state(const struct pkt *p)
{
	switch (p->t.proto) {
	case IPPROTO_TCP:
		if (p->tcp_flags & TCP_RST)
			return CT_CLOSE;
		/* Not a SYN: a flow older than our memory of it. */
		return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? CT_SYN_SENT :
									 CT_ESTABLISHED;
	case IPPROTO_UDP:
		return CT_UDP_NEW;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return CT_ICMP;
	}
	return CT_OTHER;
}

/* Next state of a TCP flow after a packet with these flags; mine and theirs are the two
 * entries' flags, this packet's already in mine. */
static __always_inline __u8 ct_tcp_next(__u8 state, __u8 tcp_flags, __u16 mine, __u16 theirs)
{
	if (tcp_flags & TCP_RST)
		return CT_CLOSE;
	if (mine & theirs & CT_F_FIN) {
		if (state == CT_TIME_WAIT || (state == CT_LAST_ACK && !(tcp_flags & TCP_FIN)))
			return CT_TIME_WAIT;
		return CT_LAST_ACK;
	}
	if ((mine | theirs) & CT_F_FIN)
		return CT_FIN_WAIT;
	/* A SYN-ACK of a connection that is established is a repeated one. */
	if (tcp_flags & TCP_SYN)
		return mine & CT_F_REPLY && state != CT_ESTABLISHED ? CT_SYN_RECV : state;
	/* Data after a RST that the receiver did not believe (RFC 5961): the
	 * flow lives. */
	if (state == CT_CLOSE || state == CT_SYN_RECV || (theirs & CT_F_SEEN))
		return CT_ESTABLISHED;
	return state;
}

/* Does this packet, of the direction whose entry has these flags, begin a new connection with the
 * ports of one that closes? After a FIN of one side only if the answer says so, too. */
static __always_inline bool ct_reopens(__u8 state, __u8 tcp_flags, __u16 mine)
{
	__u8 syn = tcp_flags & (TCP_SYN | TCP_ACK);

	if (mine & CT_F_REPLY)
		return syn == (TCP_SYN | TCP_ACK) && state == CT_FIN_WAIT;
	return syn == TCP_SYN && state >= CT_LAST_ACK;
}

static __always_inline __u8 ct_udp_next(const struct ct_entry *e, __u16 theirs, __u32 now)
{
	if (!(theirs & CT_F_SEEN))
		return CT_UDP_NEW;
	return now - e->created > 2 ? CT_UDP_STREAM : CT_UDP_REPLIED;
}

/* flow_forget removes both entries of the flow whose packets *key are translated to *xlat; what
 * another flow has by now stays. Global, so that it is verified once. */
__noinline int flow_forget(const struct tuple *key, const struct tuple *xlat)
{
	struct tuple own, back, k;
	struct ct_entry *o;

	if (!key || !xlat)
		return 0;
	own = *key;
	tuple_reverse(&k, xlat);
	tuple_reverse(&back, &own);
	bpf_map_delete_elem(&fl_ct_new, &own);
	o = bpf_map_lookup_elem(&fl_ct_new, &k);
	if (o && tuple_equal(&o->xlat, &back))
		bpf_map_delete_elem(&fl_ct_new, &k);
	o = bpf_map_lookup_elem(&fl_ct, &k);
	if (o && tuple_equal(&o->xlat, &back) && !bpf_map_delete_elem(&fl_ct, &k))
		count_event(EV_CT_DELETED);
	bpf_map_delete_elem(&fl_ct, &own);
	return 0;
}

/* Moves an answered flow to the table that is never recycled. Full: it stays. */
static __always_inline void ct_confirm(const struct tuple *key, const struct ct_entry *e,
				       const struct ct_entry *partner)
{
	/* Kernel 6.1 takes map keys and values from the stack or a map only, not
	 * from an argument of a global function. */
	struct flow *f = flow_scratch();

	if (!f)
		return;
	f->key = *key;
	f->e = *e;
	tuple_reverse(&f->rkey, &e->xlat);
	if (bpf_map_update_elem(&fl_ct, &f->key, &f->e, BPF_ANY)) {
		count_event(EV_CT_NOT_CONFIRMED);
		return;
	}
	if (bpf_map_update_elem(&fl_ct, &f->rkey, partner, BPF_ANY)) {
		bpf_map_delete_elem(&fl_ct, &f->key);
		count_event(EV_CT_NOT_CONFIRMED);
		return;
	}
	bpf_map_delete_elem(&fl_ct_new, &f->key);
	bpf_map_delete_elem(&fl_ct_new, &f->rkey);
	count_event(EV_CT_CONFIRMED);
}

/* A flow whose end or beginning this packet may be: both entries change. */
__noinline int ct_advance(const struct pkt *p, struct ct_entry *e, bool confirmed, __u32 now)
{
	struct ct_entry *o;
	__u16 theirs;
	__u8 state;
	bool confirm;

	if (!p || !e)
		return 0;
	o = ct_partner(&p->t, e, confirmed);
	state = e->state;
	if (!o) {
		/* fl_ct_new recycled the partner: make it anew, or the answer
		 * would find nothing. */
		struct flow *f = flow_scratch();

		if (confirmed || !f)
			return 0;
		ct_make_partner(&f->reply, &p->t, e);
		tuple_reverse(&f->rkey, &e->xlat);
		o = bpf_map_lookup_elem(&fl_ct, &f->rkey);
		if (o && tuple_equal(&o->xlat, &f->reply.xlat))
			return 0; /* another CPU has just confirmed the flow */
		if (!o) {
			bpf_map_update_elem(&fl_ct_new, &f->rkey, &f->reply, BPF_NOEXIST);
			o = bpf_map_lookup_elem(&fl_ct_new, &f->rkey);
		}
		if (!o)
			return 0;
		if (!tuple_equal(&o->xlat, &f->reply.xlat)) {
			f->key = p->t; /* kernel 6.1, see ct_confirm */
			bpf_map_delete_elem(&fl_ct_new, &f->key);
			return -DROP_FLOW_LOST;
		}
	}
	if (p->t.proto == IPPROTO_TCP && ct_reopens(state, p->tcp_flags, e->flags)) {
		e->flags &= ~CT_F_FIN;
		o->flags &= ~CT_F_FIN;
		if (!(e->flags & CT_F_REPLY))
			o->flags &= ~CT_F_SEEN;
		state = CT_SYN_SENT;
	}
	e->flags |= CT_F_SEEN;
	if (p->tcp_flags & TCP_FIN)
		e->flags |= CT_F_FIN;
	theirs = o->flags;
	if (p->t.proto == IPPROTO_TCP)
		state = ct_tcp_next(state, p->tcp_flags, e->flags, theirs);
	else if (p->t.proto == IPPROTO_UDP)
		state = ct_udp_next(e, theirs, now);
	if (p->t.proto == IPPROTO_TCP)
		confirm = state == CT_ESTABLISHED && (theirs & CT_F_SEEN);
	else
		confirm = e->flags & CT_F_REPLY;
	e->state = state;
	o->state = state;
	e->expires = ct_expires(now, state, confirmed || confirm);
	o->expires = e->expires;
	if (confirm && !confirmed)
		ct_confirm(&p->t, e, o);
	return 0;
}

/* ct_hit keeps a flow alive and follows its state. The entry is written at most
 * once a second unless the packet changes the state. */
static __always_inline int ct_hit(const struct pkt *p, struct ct_entry *e, bool confirmed)
{
	__u32 now = now_seconds();
	bool steady = confirmed && (e->flags & CT_F_SEEN);

	/* A later fragment has no flags that could change a state. */
	if (p->flags & PKT_FRAG_LATER)
		steady = true;
	else if (p->t.proto == IPPROTO_TCP)
		steady = steady && e->state == CT_ESTABLISHED &&
			 !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST));
	else if (p->t.proto == IPPROTO_UDP)
		steady = steady && e->state == CT_UDP_STREAM;
	if (steady || (!confirmed && p->t.proto != IPPROTO_TCP && !(e->flags & CT_F_REPLY))) {
		__u32 expires = ct_expires(now, e->state, confirmed);

		if (e->expires == expires)
			return 0;
		e->expires = expires;
		if (steady)
			return 0;
	}
	return ct_advance(p, e, confirmed, now);
}
