/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Pools: the backends among which a service spreads its new flows. The choice depends on the client
 * and its port only, so every node makes the same one: the hash selects a slot of a Maglev table
 * (Eisenbud et al., NSDI 2016), which user space computes, and the slot has the tag of a backend.
 *
 * A table is stored in parts, each of which is replaced as a whole. While user space replaces some
 * of them, every slot still has the tag of a backend, of the old table or of the new one.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "addr.h"
#include "clock.h"
#include "service.h"
#include "tuple.h"

/* fl_pool: (service, first slot: as struct backend_key, which tells the families apart) -> */
struct pool {
	__u32 slots;	/* of the Maglev table; 0: no more than one backend */
	__u32 only;	/* tag of the only backend; 0: none */
	__u32 affinity; /* seconds for which a client without new flows keeps its backend; 0: off */
	__u32 count;	/* of backends that get new flows */
};
_Static_assert(sizeof(struct pool) == 16, "struct pool");

/* Pools: two a service. When it is full the service is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct backend_key);
	__type(value, struct pool);
} fl_pool SEC(".maps");

/* Key of a part of a Maglev table, or of a backend. */
struct pool_key {
	struct backend_key pool;
	__u32 n; /* number of the part; tag of the backend */
};
_Static_assert(sizeof(struct pool_key) == 12, "struct pool_key");

#define MAGLEV_PART 32

struct maglev {
	__u32 tag[MAGLEV_PART];
};

/* Maglev tables: (pool, part) -> tags of backends. When it is full the service is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct pool_key);
	__type(value, struct maglev);
} fl_maglev SEC(".maps");

/* Backends of pools: (pool, tag) -> backend. When it is full the service is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct pool_key);
	__type(value, struct backend);
} fl_member SEC(".maps");

/* fl_affinity: (client, pool) -> */
struct affinity_key {
	union ip client; /* all zero: the host's processes */
	struct backend_key pool;
};
_Static_assert(sizeof(struct affinity_key) == 24, "struct affinity_key");

struct affinity {
	__u32 tag;
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
};

/* The last backends of clients of services with affinity; the oldest is evicted first, and the
 * client then gets the backend that a new client would get. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} fl_affinity SEC(".maps");

static __always_inline __u64 hash_mix(__u64 h, __u64 v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ULL;
	return h ^ h >> 32;
}

/* Hash of a client's address and, unless the service has affinity, of the rest of what tells its
 * flows apart. The address that it uses for the service does not count: another node may serve it
 * at another address. */
static __always_inline __u32 client_hash(const struct tuple *t, bool address)
{
	__u64 h = hash_mix(hash_mix(0, t->saddr.d[0]), t->saddr.d[1]);

	if (!address)
		h = hash_mix(h, (__u64)t->sport << 32 | (__u32)t->dport << 8 | t->proto);
	return hash_mix(h, h >> 29);
}

/* The tag in a slot of the Maglev table of a pool; 0: none. */
static __always_inline __u32 maglev_tag(const struct backend_key *pool, __u32 slot)
{
	struct pool_key k = { .pool = *pool, .n = slot / MAGLEV_PART };
	struct maglev *m = bpf_map_lookup_elem(&fl_maglev, &k);

	return m ? m->tag[slot % MAGLEV_PART] : 0;
}

/* The client's last backend in this pool, which it keeps. 0: it has none, or that is not in the
 * pool any more. */
static __always_inline __u32 affinity_tag(const struct affinity_key *k, __u32 keep)
{
	struct affinity *a = bpf_map_lookup_elem(&fl_affinity, k);
	struct pool_key m = { .pool = k->pool };
	__u32 now = now_seconds();

	if (!a || (__s32)(a->expires - now) <= 0)
		return 0;
	m.n = a->tag;
	if (!bpf_map_lookup_elem(&fl_member, &m))
		return 0;
	a->expires = now + keep;
	return m.n;
}

/* pool_choose returns the tag of the backend for the flow whose first packet is t, as far as the
 * client's side of it is known; 0: the pool has no backend. Global, so that it is verified once. */
__noinline int pool_choose(const struct backend_key *pool, const struct tuple *t)
{
	struct affinity_key a = {};
	struct affinity v;
	struct pool *p;
	__u32 tag;

	if (!pool || !t)
		return 0;
	a.pool = *pool;
	p = bpf_map_lookup_elem(&fl_pool, &a.pool);
	if (!p)
		return 0;
	if (!p->slots)
		return p->only;
	if (p->affinity) {
		a.client = t->saddr;
		tag = affinity_tag(&a, p->affinity);
		if (tag)
			return tag;
	}
	tag = maglev_tag(&a.pool, client_hash(t, p->affinity) % p->slots);
	if (p->affinity && tag) {
		v.tag = tag;
		v.expires = now_seconds() + p->affinity;
		bpf_map_update_elem(&fl_affinity, &a, &v, BPF_ANY);
	}
	return tag;
}

/* The backend of a pool for the flow whose first packet is t, or NULL. Not inlined, to save
 * stack. */
static __noinline struct backend *pool_backend(const struct backend_key *pool,
					       const struct tuple *t)
{
	struct pool_key k = { .pool = *pool };
	struct backend *b;

	k.n = pool_choose(&k.pool, t);
	b = bpf_map_lookup_elem(&fl_member, &k);
	if (b || !k.n)
		return b;
	/* User space has just removed it: the table has another tag by now. */
	k.n = pool_choose(&k.pool, t);
	return bpf_map_lookup_elem(&fl_member, &k);
}

/* The backend of a service, which may be NULL, for the flow whose first packet is t. Without a
 * backend the port is not published. */
static __always_inline struct backend *service_backend(const struct service *s,
						       const struct tuple *t)
{
	struct backend_key k;
	struct backend *b;

	if (!s)
		return NULL;
	k.service = s->id;
	k.slot = s->first;
	/* Nearly every service has one backend of its own: it costs nothing more than this. */
	b = bpf_map_lookup_elem(&fl_backend, &k);
	if (b || !(s->flags & SERVICE_POOL))
		return b;
	return pool_backend(&k, t);
}
