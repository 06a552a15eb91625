/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* Following a flow: its state, how long it lives, and when it is assured (ct.h). */

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "clock.h"
#include "config.h"
#include "count.h"
#include "ct.h"
#include "decision.h"
#include "drop.h"
#include "flow.h"
#include "pkt.h"
#include "portbits.h"
#include "tuple.h"
#include "window.h"

/* As ct_find, for packet p, which is on the stack. A SYN is most often of a flow that has just begun, or of
 * none. With this order no flow can move unseen. */
static __always_inline struct ct_entry *ct_find_flow(const struct pkt *p, bool *confirmed)
{
	struct ct_entry *e;

	if (p->t.proto != IPPROTO_TCP || !(p->tcp_flags & TCP_SYN))
		return ct_find(&p->t, confirmed);
	e = bpf_map_lookup_elem(&fl_ct_new, &p->t);
	*confirmed = false;
	if (e)
		return e;
	e = bpf_map_lookup_elem(&fl_ct, &p->t);
	*confirmed = e;
	return e;
}

/* Initial state of a flow, from its first packet. */
static __always_inline __u8 ct_first_state(const struct pkt *p)
{
	switch (p->t.proto) {
	case IPPROTO_TCP:
		if (p->tcp_flags & TCP_RST)
			return CT_CLOSE;
		/* Not a SYN: the flow is older than its entry. */
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

/* Initialises the sequence numbers of a new entry from the first packet. */
static __always_inline void ct_begin_sequence(struct ct_entry *e, const struct pkt *p)
{
	e->policy = 0;
	e->cpu = 0;
	e->scale = 0;
	e->end = 0;
	e->ack = 0;
	e->win = 0;
	e->pend = 0;
	if (p->t.proto != IPPROTO_TCP || p->tcp_flags & TCP_RST || p->flags & PKT_FRAG_FIRST)
		return;
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		window_begin(e, p);
	else
		window_adopt(e, p);
}

/* Does this packet of a closed connection's ports begin a new one? */
static __always_inline bool ct_begins_again(__u8 state, __u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && state > CT_LAST_ACK;
}

/* Does this packet, in the direction whose entry has these flags, reuse the ports of a closed
 * connection for a new one? */
static __always_inline bool ct_reopens(__u8 state, __u8 tcp_flags, __u16 mine)
{
	return ct_begins_again(state, tcp_flags) && !(mine & CT_F_REPLY);
}

/* Does packet p use the ports of a closed connection for a new one whose destination is chosen
 * again? The backend of the closed one may be drained. Or the closed one is one that a backend
 * opened from its published port (port_is_own), and p is of a client. */
static __always_inline bool ct_chooses_again(const struct pkt *p, const struct ct_entry *e)
{
	if (p->t.proto != IPPROTO_TCP || !ct_begins_again(e->state, p->tcp_flags))
		return false;
	return e->flags & CT_F_REPLY ? port_published(IPPROTO_TCP, p->t.dport) :
				       e->flags & CT_F_NAT_DST;
}

/* Handles a SYN without ACK. Returns the next state, or CT_STATE_MAX if nothing changes. */
static __always_inline __u8 ct_tcp_syn(const struct pkt *p, struct ct_entry *e, struct ct_entry *o)
{
	__u8 state = e->state;
	bool again = state == CT_SYN_SENT && e->flags & CT_F_SEQ && e->pend == p->seq + 1;
	__u32 end = e->end;

	if (ct_reopens(state, p->tcp_flags, e->flags)) {
		e->flags &= ~CT_F_FIN;
		o->flags &= ~(CT_F_FIN | CT_F_SEEN | CT_F_SEQ);
		state = CT_SYN_SENT;
	} else if (state != CT_SYN_SENT) {
		/* A retransmission, or a new connection if the other side confirms it. */
		if (state >= CT_ESTABLISHED)
			e->pend = p->seq + 1;
		return CT_STATE_MAX;
	}
	window_begin(e, p);
	/* A retransmission lacks the data of the first SYN, which the server may acknowledge (RFC
	 * 7413 section 4.1.3). */
	if (again && seq_after(end, e->end))
		e->end = end;
	return state; /* both sides may open at once; a SYN-ACK follows then, too */
}

/* Restarts the flow when a SYN in the middle of a connection is answered: the old connection no
 * longer exists. */
static __always_inline void ct_tcp_anew(const struct pkt *p, struct ct_entry *e, struct ct_entry *o)
{
	e->flags &= ~CT_F_FIN;
	o->flags &= ~CT_F_FIN;
	window_infer(o, p);
	window_begin(e, p);
}

/* Handles a SYN-ACK, as ct_tcp_syn. */
static __always_inline __u8 ct_tcp_synack(const struct pkt *p, struct ct_entry *e,
					  struct ct_entry *o)
{
	__u8 state = e->state;

	if (state >= CT_ESTABLISHED && state <= CT_LAST_ACK) {
		if (!(e->flags & CT_F_REPLY) || p->ack != o->pend)
			return CT_STATE_MAX;
		ct_tcp_anew(p, e, o);
		return CT_SYN_RECV;
	}
	if (state > CT_SYN_RECV)
		return CT_STATE_MAX;
	/* The client's entry was evicted, or written by a build without sequence numbers. */
	if (!(o->flags & CT_F_SEQ) && e->flags & CT_F_REPLY)
		window_infer(o, p);
	else if (!window_answers(p, o))
		return CT_STATE_MAX;
	if (!(e->flags & CT_F_SEQ) || e->pend != p->seq + 1)
		window_begin(e, p);
	e->ack = p->ack;
	if (p->scale == TCP_NO_SCALE)
		o->scale = 0;
	o->ack = e->pend; /* or more, in the next packet */
	return CT_SYN_RECV;
}

/* Handles a packet that is neither SYN nor RST, as ct_tcp_syn. */
static __always_inline __u8 ct_tcp_data(const struct pkt *p, struct ct_entry *e, struct ct_entry *o,
					bool confirmed)
{
	__u8 state = e->state;

	if (state == CT_CLOSE && !confirmed)
		return CT_STATE_MAX;
	if (state < CT_ESTABLISHED) {
		if (state == CT_SYN_SENT || !window_completes(p, e, o))
			return CT_STATE_MAX;
		if (e->flags & CT_F_REPLY && !(p->tcp_flags & TCP_FIN)) {
			window_early(e, p);
			return state;
		}
		window_adopt(e, p);
		e->pend = e->end ^ 0x80000000;
		o->pend = o->end ^ 0x80000000;
		state = CT_ESTABLISHED;
	} else if (!window_fits(p, e, o) && !(p->tcp_flags & TCP_FIN && ct_held())) {
		return CT_STATE_MAX;
	}
	if (p->tcp_flags & TCP_FIN)
		e->flags |= CT_F_FIN;
	if (e->flags & o->flags & CT_F_FIN) {
		if (state == CT_TIME_WAIT || (state == CT_LAST_ACK && !(p->tcp_flags & TCP_FIN)))
			return CT_TIME_WAIT;
		return CT_LAST_ACK;
	}
	if ((e->flags | o->flags) & CT_F_FIN)
		return CT_FIN_WAIT;
	return CT_ESTABLISHED; /* after CT_CLOSE, too: the receiver did not accept the RST */
}

/* Returns the next state of a TCP flow after packet p of e's direction, or CT_STATE_MAX if the
 * packet changes nothing, because it does not fit the sequence numbers or is a retransmission. */
static __always_inline __u8 ct_tcp_next(const struct pkt *p, struct ct_entry *e, struct ct_entry *o,
					bool confirmed)
{
	if (p->tcp_flags & TCP_RST)
		return window_resets(p, e, o, e->state < CT_ESTABLISHED) ? CT_CLOSE : CT_STATE_MAX;
	if (!(p->tcp_flags & TCP_SYN))
		return ct_tcp_data(p, e, o, confirmed);
	return p->tcp_flags & TCP_ACK ? ct_tcp_synack(p, e, o) : ct_tcp_syn(p, e, o);
}

static __always_inline __u8 ct_udp_next(const struct ct_entry *e, __u16 theirs, __u32 now)
{
	if (!(theirs & CT_F_SEEN))
		return CT_UDP_NEW;
	return now - e->created > 2 ? CT_UDP_STREAM : CT_UDP_REPLIED;
}

/* Moves an assured flow to the table that evicts nothing. If that is full the flow stays where
 * it is. */
static __always_inline bool ct_confirm(const struct tuple *key, const struct ct_entry *e,
				       const struct ct_entry *partner)
{
	/* Kernel 6.1 takes map keys and values from the stack or a map only, not
	 * from an argument of a global function. */
	struct flow *f = flow_scratch();

	if (!f)
		return false;
	f->key = *key;
	f->e = *e;
	tuple_reverse(&f->rkey, &e->xlat);
	if ((f->key.proto != IPPROTO_TCP && !ct_room(f->key.proto)) || !ct_put(&f->key, &f->e)) {
		count_event(EV_CT_NOT_CONFIRMED);
		return false;
	}
	if (!ct_put(&f->rkey, partner)) {
		ct_delete(&f->key);
		count_event(EV_CT_NOT_CONFIRMED);
		return false;
	}
	bpf_map_delete_elem(&fl_ct_new, &f->key);
	bpf_map_delete_elem(&fl_ct_new, &f->rkey);
	count_event(EV_CT_CONFIRMED);
	return true;
}

/* Is this flow, which is not TCP, in use by both sides? For UDP the state says so. */
static __always_inline bool ct_lasting(const struct tuple *t, const struct ct_entry *e,
				       const struct ct_entry *o, __u32 now)
{
	return t->proto != IPPROTO_ICMP && t->proto != IPPROTO_ICMPV6 && o->flags & CT_F_SEEN &&
	       now - e->created > 2;
}

/* What ct_advance returns when the flow was moved to fl_ct: its entry is not valid any more. */
#define CT_MOVED 1

/* Handles a packet that may begin or end its flow, or that does not continue it. This needs
 * both entries. Returns 0, CT_MOVED or -DROP_X. */
__noinline int ct_advance(const struct pkt *p, struct ct_entry *e, bool confirmed, __u32 now)
{
	struct ct_entry *o;
	__u8 state;
	bool confirm;

	if (!p || !e)
		return 0;
	o = ct_partner(&p->t, e, confirmed);
	if (o && o->cpu)
		decision_take_partner(e, o);
	state = e->state;
	if (!o) {
		/* The partner was evicted from fl_ct_new: create it again, or the reply would
		 * match no flow. */
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
	if (p->t.proto == IPPROTO_TCP) {
		state = ct_tcp_next(p, e, o, confirmed);
		if (state == CT_STATE_MAX) {
			/* Forwarded: the receiver can judge it better. */
			if (e->state == CT_ESTABLISHED) {
				e->expires = ct_expires(now, CT_ESTABLISHED, confirmed);
				o->expires = e->expires;
			}
			return 0;
		}
	}
	e->flags |= CT_F_SEEN;
	if (p->t.proto == IPPROTO_UDP)
		state = ct_udp_next(e, o->flags, now);
	if (p->t.proto == IPPROTO_TCP)
		confirm = state == CT_ESTABLISHED && o->flags & CT_F_SEEN;
	else
		confirm = ct_lasting(&p->t, e, o, now);
	e->state = state;
	o->state = state;
	e->expires = ct_expires(now, state, confirmed || confirm);
	o->expires = e->expires;
	return confirm && !confirmed && ct_confirm(&p->t, e, o) ? CT_MOVED : 0;
}

/* ct_follow keeps a flow alive and follows its state. The entry is written at most once a second unless
 * the packet changes the state. Sets PKT_STEADY. Returns as ct_advance. */
static __always_inline int ct_follow(struct pkt *p, struct ct_entry *e, bool confirmed)
{
	__u32 now = now_seconds();
	bool steady;

	if (e->cpu)
		decision_take(&p->t, e);
	steady = confirmed && (e->flags & CT_F_SEEN);

	/* A later fragment has no flags that could change a state. The first fragment of a TCP
	 * segment has no sequence numbers to check. */
	if (p->flags & PKT_FRAG_LATER || (p->flags & PKT_FRAG_FIRST && p->t.proto == IPPROTO_TCP))
		steady = true;
	else if (p->t.proto == IPPROTO_TCP)
		steady = steady && e->state == CT_ESTABLISHED && e->flags & CT_F_SEQ &&
			 !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) && window_continues(e, p);
	else if (p->t.proto == IPPROTO_UDP)
		steady = steady && e->state == CT_UDP_STREAM;
	if (steady || (!confirmed && p->t.proto != IPPROTO_TCP && e->flags & CT_F_SEEN)) {
		__u32 expires = ct_expires(now, e->state, confirmed);

		/* Answers are not cached before their flow is assured: until then it may be
		 * evicted, and another flow may take its port. */
		if (steady || (e->expires == expires && !(e->flags & CT_F_REPLY)))
			p->flags |= PKT_STEADY;
		if (e->expires == expires)
			return 0;
		e->expires = expires;
		if (steady)
			return 0;
	}
	return ct_advance(p, e, confirmed, now);
}

/* As ct_follow, where the entry is not used afterwards. Returns 0 or -DROP_X. */
static __always_inline int ct_hit(struct pkt *p, struct ct_entry *e, bool confirmed)
{
	int err = ct_follow(p, e, confirmed);

	return err < 0 ? err : 0;
}

/* As ct_hit, for packets whose decisions are cached: deliver() completes what this begins. *to and
 * out_if: of e, which may be gone afterwards. */
static __always_inline int ct_hit_cached(struct __sk_buff *skb, struct pkt *p, struct ct_entry *e,
					 bool confirmed, const struct tuple *to, __u32 out_if)
{
	int err = ct_follow(p, e, confirmed);

	if (err < 0)
		return err;
	if (err == CT_MOVED) /* those that follow are of an assured flow */
		p->flags |= PKT_STEADY;
	if (p->flags & PKT_STEADY && cfg_cache)
		decision_begin(skb, p, to, out_if, err == CT_MOVED ? NULL : e);
	return 0;
}

/* Updates known flow e, whose other end is a sandbox, for packet p and copies its translation
 * to *to and its endpoint to *out_if. They are copied because confirming the flow frees the
 * entry. Returns 0 or -DROP_X. */
static __always_inline int known_hit(struct __sk_buff *skb, struct pkt *p, struct ct_entry *e,
				     bool confirmed, struct tuple *to, __u32 *out_if)
{
	*to = e->xlat;
	*out_if = e->out_if;
	return ct_hit_cached(skb, p, e, confirmed, to, *out_if);
}
