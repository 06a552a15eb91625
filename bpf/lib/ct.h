/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * The tables of flows. A flow has two entries, one per direction. Each holds all that a packet of
 * that direction needs, so an established packet costs one lookup.
 *
 * Every flow begins in fl_ct_new, which evicts its least recently used entries. It moves to fl_ct,
 * which evicts nothing, when it is assured: TCP after a handshake whose sequence numbers fit; UDP
 * and others when both sides have sent for longer than two seconds; ICMP never (nf_conntrack's
 * IPS_ASSURED). So a flood, answered or not, cannot evict real flows. A TCP connection for which
 * fl_ct would have no room is refused at its first packet; other flows get at most half of fl_ct.
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "config.h"
#include "count.h"
#include "generation.h"
#include "tuple.h"

/* States of a flow (nf_conntrack's, RFC 9293 section 3.3.2 from the middle of the path). */
enum ct_state {
	CT_SYN_SENT,
	CT_SYN_RECV,
	CT_ESTABLISHED,
	CT_FIN_WAIT, /* one side closed */
	CT_LAST_ACK, /* both sides closed, last ACK outstanding */
	CT_TIME_WAIT,
	CT_CLOSE,      /* RST seen */
	CT_UDP_NEW,    /* no reply yet */
	CT_UDP_STREAM, /* both directions seen, for longer than two seconds */
	CT_UDP_REPLIED,
	CT_ICMP,
	CT_OTHER,
	CT_STATE_MAX,
};

/* ct_entry.flags */
enum ct_flag {
	CT_F_REPLY = 1 << 0,   /* the entry of the reply direction */
	CT_F_FIN = 1 << 1,     /* this direction sent FIN */
	CT_F_SEEN = 1 << 2,    /* this direction sent a packet */
	CT_F_NAT_SRC = 1 << 3, /* source address or port is translated */
	CT_F_NAT_DST = 1 << 4, /* destination likewise */
	CT_F_HOST = 1 << 6,    /* a flow of the host itself, SNATed after a port collision */
	CT_F_STACK = 1 << 7,   /* the stack forwards it, and netfilter sees its replies, too */
	CT_F_SEQ = 1 << 8,     /* TCP: this direction's sequence numbers are known */
};

/* fl_ct and fl_ct_new: tuple as the packet arrives -> its translation. One entry per direction;
 * the partner's key is the reverse of xlat, the partner's xlat is the reverse of the key. The
 * loader converts pinned tables of another layout field by field, by name: a field keeps its
 * name and its meaning, and zero in a new one stands for "not known". 88 bytes take as much
 * memory as 64 did (an element of fl_ct comes from the kernel's slab of 192 bytes). */
struct ct_entry {
	struct tuple xlat; /* the packet after translation */
	__u32 in_if;   /* host end the packets come from; 0: an uplink or the host; VIA: a node */
	__u32 out_if;  /* host end they are delivered to; 0: routed; VIA: a node */
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
	__u32 publish; /* model.Publish.ID that made it; 0: none */
	__u32 created; /* CLOCK_MONOTONIC, seconds */
	__u32 policy;  /* reserved: generation of the policy that allowed it */
	__u16 flags;   /* enum ct_flag */
	__u16 net;     /* network index the flow is accounted to */
	__u16 cpu;     /* that has the numbers below for now, plus 1; 0: this entry (decision.h) */
	__u8 state;    /* enum ct_state, kept equal in both entries */
	/* TCP, of this direction, with CT_F_SEQ (ct.h): */
	__u8 scale; /* shift of the windows it advertises */
	__u32 end;  /* sequence number after the last byte it sent */
	__u32 ack;  /* latest acknowledgement it sent */
	__u32 win;  /* largest window it advertised, in bytes */
	__u32 pend; /* see ct.h */
};
_Static_assert(sizeof(struct ct_entry) == 88, "struct ct_entry");

/* Assured flows, two entries each (ct.h). Never evicted. When it is nearly full, new TCP
 * connections are refused (DROP_CT_FULL); when it is half full, other flows stay in fl_ct_new
 * (EV_CT_NOT_CONFIRMED). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 524288);
	__type(key, struct tuple);
	__type(value, struct ct_entry);
} fl_ct SEC(".maps");

/* All other flows. A flood evicts the least recently used of these, and no others. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct tuple);
	__type(value, struct ct_entry);
} fl_ct_new SEC(".maps");

/* The number of entries in fl_ct, which programs cannot query before kernel 6.6. The daemon
 * corrects it when it drifts. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} fl_ct_used SEC(".maps");

/* Idle time after which a flow of each state expires, in seconds: the defaults of nf_conntrack
 * (Documentation/networking/nf_conntrack-sysctl.rst). */
volatile const __u32 cfg_timeout[CT_STATE_MAX] = {
	[CT_SYN_SENT] = 120,   [CT_SYN_RECV] = 60, [CT_ESTABLISHED] = 432000,
	[CT_FIN_WAIT] = 120,   [CT_LAST_ACK] = 30, [CT_TIME_WAIT] = 120,
	[CT_CLOSE] = 10,       [CT_UDP_NEW] = 30,  [CT_UDP_STREAM] = 120,
	[CT_UDP_REPLIED] = 30, [CT_ICMP] = 30,	   [CT_OTHER] = 600,
};

static __always_inline __u32 ct_timeout(__u8 state)
{
	__u32 i = state;

	/* Kernel 6.1 loses the bound: clang tests a copy and indexes with the
	 * original ("R0 max value is outside of the allowed memory range"). */
	barrier_var(i);
	return i < CT_STATE_MAX ? cfg_timeout[i] : 0;
}

/* Seconds to keep an unanswered flow that was picked up in the middle. There can be many whose
 * connection no longer exists, and each holds a port (nf_conntrack_tcp_timeout_unacknowledged). */
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
	if (e)
		return e;
	e = bpf_map_lookup_elem(&fl_ct_new, t);
	if (e)
		return e;
	/* Another CPU may have moved it (ct_confirm) between the two lookups. To create the
	 * flow again, or to leave the packet to the host, would break the connection. */
	e = bpf_map_lookup_elem(&fl_ct, t);
	*confirmed = e;
	return e;
}

/* The other entry of the flow that has entry e for key. Returns NULL if it was evicted from
 * fl_ct_new, or if another flow has taken its place since. */
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

/* Computes the partner of an entry from the entry itself. */
static __always_inline void ct_make_partner(struct ct_entry *out, const struct tuple *key,
					    const struct ct_entry *e)
{
	*out = *e;
	tuple_reverse(&out->xlat, key);
	out->in_if = e->out_if;
	out->out_if = e->in_if;
	out->flags = (e->flags ^ CT_F_REPLY) &
		     (CT_F_REPLY | CT_F_HOST | CT_F_STACK | CT_F_NAT_SRC | CT_F_NAT_DST);
	out->end = 0;
	out->ack = 0;
	out->win = 0;
	out->pend = 0;
	out->scale = 0;
	out->cpu = 0;
}

/* Is e the original direction of a flow with a translated source? */
static __always_inline bool ct_masqueraded(const struct ct_entry *e)
{
	return (e->flags & (CT_F_NAT_SRC | CT_F_REPLY)) == CT_F_NAT_SRC;
}

static __always_inline __s64 *ct_used(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fl_ct_used, &zero);
}

static __always_inline void ct_use(__s64 entries)
{
	__s64 *used = ct_used();

	if (used)
		__sync_fetch_and_add(used, entries);
}

/* Is there room in fl_ct for another flow of this protocol? A sixteenth is reserved for
 * connections whose handshake is under way, half for TCP. */
static __always_inline bool ct_room(__u8 proto)
{
	__s64 *used = ct_used();
	__s64 max = cfg_ct_max;

	return used && *used < (proto == IPPROTO_TCP ? max - max / 16 : max / 2);
}

/* Are tables and programs being exchanged (maps.FlowCount.Hold)? */
static __always_inline bool ct_held(void)
{
	__s64 *used = ct_used();

	return used && *used >> 32;
}

/* Writes an entry of fl_ct. */
static __always_inline bool ct_put(const struct tuple *key, const struct ct_entry *e)
{
	if (!bpf_map_update_elem(&fl_ct, key, e, BPF_NOEXIST)) {
		ct_use(1);
		return true;
	}
	return !bpf_map_update_elem(&fl_ct, key, e, BPF_EXIST);
}

static __always_inline bool ct_delete(const struct tuple *key)
{
	if (bpf_map_delete_elem(&fl_ct, key))
		return false;
	ct_use(-1);
	return true;
}

/* flow_forget removes both entries of the flow whose packets *key are translated to *xlat,
 * unless they belong to another flow by now. Unless it is a closed connection, cached decisions
 * end: those for a closed one do not hold any more (decision_follow). Global, so that it is verified
 * once. */
__noinline int flow_forget(const struct tuple *key, const struct tuple *xlat, bool closed)
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
	if (o && tuple_equal(&o->xlat, &back) && ct_delete(&k))
		count_event(EV_CT_DELETED);
	ct_delete(&own);
	if (!closed)
		generation_next();
	return 0;
}
