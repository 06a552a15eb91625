/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * TCP sequence windows (RFC 9293, RFC 5961, after Guido van Rooij's "Real Stateful TCP Packet
 * Filtering in IP Filter", as nf_conntrack_proto_tcp.c with tcp_be_liberal=0).
 *
 * Each direction's entry notes what that direction sent: the end of its data, its latest
 * acknowledgement and its largest window. A packet that continues its direction needs nothing
 * else (window_continues). What changes the state of a flow, or does not continue, is compared
 * with the other direction's entry, too (window_fits). What does not fit is forwarded, since its
 * receiver judges better, but changes nothing.
 *
 * pend, the fourth number, is
 *  - in the handshake (CT_SYN_SENT, CT_SYN_RECV): the sequence number after the SYN, without data
 *  - after it: where the latest packet that did not fit ends; after a SYN, what would answer it.
 *    When the other side acknowledges exactly that, it was real: packets went another way, or
 *    a new connection began, and the numbers are taken over (nobody can acknowledge so what he
 *    did not receive).
 */

#include "pkt.h"

/* The smallest window that is assumed, so that rounding and reordering do no harm: nf's
 * MAXACKWINCONST, rounded. */
#define WINDOW_MIN 0x10000U

/* How far a direction with no numbers yet may be from what the other one says. */
#define WINDOW_ADOPT (1 << 24)

/* Scale of a flow whose SYNs were not seen: Linux chooses 7 by default, 10 for 64 MiB. */
#define WINDOW_SCALE_UNKNOWN 8

/* Is a at most n before b, and not after it? */
static __always_inline bool seq_within(__u32 a, __u32 b, __u32 n)
{
	return b - a <= n;
}

static __always_inline bool seq_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline void window_offer(struct ct_entry *e, const struct pkt *p)
{
	__u32 win = (__u32)p->win << (e->scale & 15);

	if (win > e->win)
		e->win = win;
}

/* A SYN, or SYN-ACK, begins this direction. Its window is not scaled. */
static __always_inline void window_begin(struct ct_entry *e, const struct pkt *p)
{
	e->end = p->seq_end;
	e->pend = p->seq + 1;
	e->ack = p->ack;
	e->win = WINDOW_MIN;
	e->scale = p->scale & 15;
	e->flags |= CT_F_SEQ;
}

/* The direction that p answers is where p's acknowledgement says. */
static __always_inline void window_infer(struct ct_entry *o, const struct pkt *p)
{
	o->end = p->ack;
	o->pend = p->ack;
	o->ack = p->seq + 1;
	o->win = WINDOW_MIN;
	o->scale = WINDOW_SCALE_UNKNOWN;
	o->flags |= CT_F_SEQ;
}

/* Takes p for what this direction sends from now on. */
static __always_inline void window_adopt(struct ct_entry *e, const struct pkt *p)
{
	if (!(e->flags & CT_F_SEQ)) {
		e->win = WINDOW_MIN;
		e->scale = WINDOW_SCALE_UNKNOWN;
		e->pend = p->seq_end ^ 0x80000000;
		e->flags |= CT_F_SEQ;
	}
	e->end = p->seq_end;
	e->ack = p->ack;
	window_offer(e, p);
}

/* Notes packet p of an entry that knows its numbers. */
static __always_inline void window_note(struct ct_entry *e, const struct pkt *p)
{
	if (seq_after(p->seq_end, e->end))
		e->end = p->seq_end;
	if (seq_after(p->ack, e->ack))
		e->ack = p->ack;
	window_offer(e, p);
}

/* Does p, without SYN and RST, go on where its direction stopped, or repeat a little? Notes it
 * then. It costs no look at the other entry: nobody can be further behind, or acknowledge more at
 * once, than a window. */
static __always_inline bool window_continues(struct ct_entry *e, const struct pkt *p)
{
	__u32 acked = p->ack - e->ack;

	if (!(p->tcp_flags & TCP_ACK) || !seq_within(p->seq, e->end, WINDOW_MIN) || acked > e->win)
		return false;
	if (seq_after(p->seq_end, e->end))
		e->end = p->seq_end;
	if (acked)
		e->ack = p->ack;
	window_offer(e, p);
	return true;
}

/* Does p's acknowledgement answer what o's direction has sent in its handshake? */
static __always_inline bool window_answers(const struct pkt *p, const struct ct_entry *o)
{
	return p->tcp_flags & TCP_ACK && o->flags & CT_F_SEQ &&
	       seq_within(o->pend, p->ack, o->end - o->pend);
}

/* Is the RST p, of e's direction, from somebody who knows the flow? In the handshake the client goes
 * by the acknowledgement of its SYN (RFC 9293 section 3.10.7.3), the server by the number that is
 * next. Established: only at the very number that is expected next (RFC 5961 section 3.2), or right after the sender's data. */
static __always_inline bool window_resets(const struct pkt *p, const struct ct_entry *e,
					  const struct ct_entry *o, bool handshake)
{
	if (handshake)
		return (e->flags & CT_F_REPLY && window_answers(p, o)) ||
		       (e->flags & CT_F_SEQ && seq_within(e->pend, p->seq, e->end - e->pend));
	return (o->flags & CT_F_SEQ && p->seq == o->ack) ||
	       (e->flags & CT_F_SEQ && p->seq == e->end);
}

/* A packet of the handshake that is neither SYN nor RST. */
static __always_inline bool window_completes(const struct pkt *p, const struct ct_entry *e,
					     const struct ct_entry *o)
{
	if (!((e->flags | o->flags) & CT_F_SEQ))
		return true; /* both entries are of a build that knew no numbers */
	if (e->flags & CT_F_SEQ)
		return window_answers(p, o) && seq_within(e->pend, p->seq, WINDOW_MIN);
	/* Its entry was recycled: the other side may have sent data by now. */
	return p->tcp_flags & TCP_ACK && o->flags & CT_F_SEQ &&
	       seq_within(o->pend, p->ack, o->end - o->pend + WINDOW_MIN);
}

/* What the server sends between its SYN-ACK and the client's ACK, which acknowledges it then (RFC
 * 7413). It does not complete the handshake: only the client shows that it got the SYN-ACK. */
static __always_inline void window_early(struct ct_entry *e, const struct pkt *p)
{
	if (e->flags & CT_F_SEQ) {
		window_note(e, p);
		return;
	}
	window_adopt(e, p);
	e->pend = p->seq;
}

/* Packets that did not fit were real if the other side acknowledges them exactly. */
static __always_inline bool window_resumes(const struct pkt *p, struct ct_entry *e,
					   struct ct_entry *o)
{
	if (p->ack != o->pend)
		return false;
	if (!seq_within(p->seq, o->ack + o->win, o->win + e->win) && p->seq != e->pend)
		return false;
	o->end = o->pend;
	return true;
}

/* A packet after the handshake that is neither SYN nor RST; what fits is noted. */
static __always_inline bool window_fits(const struct pkt *p, struct ct_entry *e, struct ct_entry *o)
{
	if (!(p->tcp_flags & TCP_ACK))
		return false;
	if (!(o->flags & CT_F_SEQ)) {
		/* Only one direction was seen since the flow is known. */
		if (e->flags & CT_F_SEQ)
			window_continues(e, p);
		else
			window_adopt(e, p);
		return false;
	}
	if (!(e->flags & CT_F_SEQ)) {
		if (!seq_within(p->ack, o->end, WINDOW_ADOPT) ||
		    !seq_within(p->seq, o->ack + o->win, o->win + WINDOW_ADOPT))
			return false;
		window_adopt(e, p);
		return true;
	}
	if (seq_within(p->seq, o->ack + o->win, 2 * o->win) &&
	    !seq_after(e->end - o->win, p->seq_end) && seq_within(p->ack, o->end, e->win)) {
		window_note(e, p);
		return true;
	}
	if (window_resumes(p, e, o)) {
		window_adopt(e, p);
		return true;
	}
	e->pend = p->seq_end;
	return false;
}
