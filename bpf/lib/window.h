/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * TCP sequence windows (RFC 9293, RFC 5961, after Guido van Rooij's "Real Stateful TCP Packet
 * Filtering in IP Filter", as nf_conntrack_proto_tcp.c with tcp_be_liberal=0).
 *
 * Each direction's entry records what that direction sent: the end of its data, its latest
 * acknowledgement and its largest window. A packet that continues its direction needs nothing else
 * (window_continues). A packet that changes the state of a flow, or does not continue it, is also
 * compared with the other direction's entry (window_fits). A packet that does not fit is
 * forwarded, since its receiver can judge it better, but changes nothing. The exception is a FIN
 * while tables are exchanged (ct_held): until all programs are replaced, those of each version see
 * one direction of some flows and do not know the other's numbers, so that none would accept the
 * FINs, and the flow would stay established for days.
 *
 * pend, the fourth number, is
 *  - in the handshake (CT_SYN_SENT, CT_SYN_RECV): the sequence number after the SYN, without data
 *  - after it: where the latest packet that did not fit ends; after a SYN, the number that
 *    acknowledges it. When the other side acknowledges exactly that, the packet was real:
 *    packets took another path, or a new connection began, and the numbers are adopted (a host
 *    cannot acknowledge exactly what it did not receive).
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include "ct.h"
#include "pkt.h"

/* The smallest window that is assumed, to tolerate rounding and reordering: nf's
 * MAXACKWINCONST, rounded. */
#define WINDOW_MIN 0x10000U

/* How far a direction with no numbers yet may differ from what the other one says. */
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

/* Do the fields of a segment continue a direction with these numbers, or repeat a little of it? If
 * so, records them. offer: the window that it advertises, in bytes. */
static __always_inline bool numbers_continue(__u32 *end, __u32 *ack, __u32 *win, __u32 seq,
					     __u32 seq_end, __u32 acks, __u32 offer)
{
	__u32 acked = acks - *ack;

	if (!seq_within(seq, *end, WINDOW_MIN) || acked > *win)
		return false;
	if (seq_after(seq_end, *end))
		*end = seq_end;
	if (acked)
		*ack = acks;
	if (offer > *win)
		*win = offer;
	return true;
}

static __always_inline void window_offer(struct ct_entry *e, const struct pkt *p)
{
	__u32 win = (__u32)p->win << (e->scale & 15);

	if (win > e->win)
		e->win = win;
}

/* Begins this direction with a SYN or SYN-ACK, whose window is not scaled. */
static __always_inline void window_begin(struct ct_entry *e, const struct pkt *p)
{
	e->end = p->seq_end;
	e->pend = p->seq + 1;
	e->ack = p->ack;
	e->win = WINDOW_MIN;
	e->scale = p->scale & 15;
	e->flags |= CT_F_SEQ;
}

/* Infers the numbers of the opposite direction from p's acknowledgement. */
static __always_inline void window_infer(struct ct_entry *o, const struct pkt *p)
{
	o->end = p->ack;
	o->pend = p->ack;
	o->ack = p->seq + 1;
	o->win = WINDOW_MIN;
	o->scale = WINDOW_SCALE_UNKNOWN;
	o->flags |= CT_F_SEQ;
}

/* Adopts the numbers of p for this direction. */
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

/* Records packet p in an entry that knows its numbers. */
static __always_inline void window_note(struct ct_entry *e, const struct pkt *p)
{
	if (seq_after(p->seq_end, e->end))
		e->end = p->seq_end;
	if (seq_after(p->ack, e->ack))
		e->ack = p->ack;
	window_offer(e, p);
}

/* Does p, without SYN and RST, continue where its direction stopped, or repeat a little? If so,
 * records it. The other entry is not needed: neither side can be further behind, or acknowledge
 * more at once, than a window. */
static __always_inline bool window_continues(struct ct_entry *e, const struct pkt *p)
{
	return p->tcp_flags & TCP_ACK &&
	       numbers_continue(&e->end, &e->ack, &e->win, p->seq, p->seq_end, p->ack,
				(__u32)p->win << (e->scale & 15));
}

/* Does p acknowledge what o's direction has sent in its handshake? */
static __always_inline bool window_answers(const struct pkt *p, const struct ct_entry *o)
{
	return p->tcp_flags & TCP_ACK && o->flags & CT_F_SEQ &&
	       seq_within(o->pend, p->ack, o->end - o->pend);
}

/* Does the sender of RST p, of e's direction, know the flow? In the handshake the client
 * accepts an RST that acknowledges its SYN (RFC 9293 section 3.10.7.3), the server one with the
 * next sequence number. Afterwards it must have exactly the number that is expected next (RFC
 * 5961 section 3.2), or follow the sender's data. */
static __always_inline bool window_resets(const struct pkt *p, const struct ct_entry *e,
					  const struct ct_entry *o, bool handshake)
{
	if (handshake)
		return (e->flags & CT_F_REPLY && window_answers(p, o)) ||
		       (e->flags & CT_F_SEQ && seq_within(e->pend, p->seq, e->end - e->pend));
	return (o->flags & CT_F_SEQ && p->seq == o->ack) ||
	       (e->flags & CT_F_SEQ && p->seq == e->end);
}

/* Does p, neither SYN nor RST, complete the handshake? */
static __always_inline bool window_completes(const struct pkt *p, const struct ct_entry *e,
					     const struct ct_entry *o)
{
	if (!((e->flags | o->flags) & CT_F_SEQ))
		return true; /* both entries were written by a build without sequence numbers */
	if (e->flags & CT_F_SEQ)
		return window_answers(p, o) && seq_within(e->pend, p->seq, WINDOW_MIN);
	/* Its entry was evicted: the other side may have sent data by now. */
	return p->tcp_flags & TCP_ACK && o->flags & CT_F_SEQ &&
	       seq_within(o->pend, p->ack, o->end - o->pend + WINDOW_MIN);
}

/* Records data that the server sends between its SYN-ACK and the client's ACK, which then
 * acknowledges it (RFC 7413). It does not complete the handshake: only the client shows that it
 * got the SYN-ACK. */
static __always_inline void window_early(struct ct_entry *e, const struct pkt *p)
{
	if (e->flags & CT_F_SEQ) {
		window_note(e, p);
		return;
	}
	window_adopt(e, p);
	e->pend = p->seq;
}

/* Packets that did not fit were real if the other side acknowledges exactly them. */
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

/* Does p, neither SYN nor RST, fit after the handshake? If so, records it. */
static __always_inline bool window_fits(const struct pkt *p, struct ct_entry *e, struct ct_entry *o)
{
	if (!(p->tcp_flags & TCP_ACK))
		return false;
	if (!(o->flags & CT_F_SEQ)) {
		/* Only one direction was seen since the flow was created. The other one is
		 * recorded when it acknowledges the end of this one, which must be the real end:
		 * the first packet may have been a keepalive probe, or more may have passed
		 * unseen. */
		if (!(e->flags & CT_F_SEQ) || !window_continues(e, p))
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
