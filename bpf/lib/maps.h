/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Every map, with its writer and what happens when it is full. The loader sets max_entries of
 * those that have a flag; the sizes here are the defaults. docs/datapath.md has the same as a
 * table.
 */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

/* ---- written by the control plane ---- */

/* Endpoints and host ports by the device their packets arrive at. When it is full the endpoint
 * is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct endpoint);
} fl_endpoint SEC(".maps");

/* (network, MAC) -> device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct fdb_key);
	__type(value, struct fdb_entry);
} fl_fdb SEC(".maps");

/* (network, IP) -> MAC and device; three a member: IPv4, IPv6, link-local. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 49152);
	__type(key, struct neigh_key);
	__type(value, struct neigh_entry);
} fl_neigh SEC(".maps");

/* Published ports. When it is full the publish is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct publish_key);
	__type(value, struct publish);
} fl_publish SEC(".maps");

/* One bit per port and protocol: is it published at any address? Saves all other packets the
 * lookups in fl_publish, and excludes these ports from SNAT. */
#define PORTBITS_WORDS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * PORTBITS_WORDS); /* TCP, then UDP */
	__type(key, __u32);
	__type(value, __u64);
} fl_portbits SEC(".maps");

/* Addresses of the host itself, including gateway addresses, without the loopback. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, union ip);
	__type(value, __u32);
} fl_hostaddr SEC(".maps");

/* Prefixes all of whose addresses belong to the host: local routes without an address ("ip
 * route add local PREFIX dev lo"). When it is full, a further prefix is not treated as the
 * host's. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct subnet_key);
	__type(value, __u32);
} fl_hostnet SEC(".maps");

/* Subnets of all networks. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct subnet_key);
	__type(value, __u32);
} fl_subnet SEC(".maps");

/* Uplinks by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct uplink);
} fl_uplink SEC(".maps");

/* ---- written by the datapath ---- */

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

/* Ports of fragmented packets in flight, for as long as a receiver would wait for the rest; the
 * oldest is evicted first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct frag_key);
	__type(value, struct frag_entry);
} fl_frag SEC(".maps");

/* Fragments that wait for their first, in slots found by a hash. When it is full, further ones
 * are refused or left to the host's stack. The last slot holds no fragment: it says until when
 * any is waiting. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_SLOTS + 1);
	__type(key, __u32);
	__type(value, struct held);
} fl_held SEC(".maps");

/* Host sockets redirected to a backend; the oldest is evicted first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct sock_rev_key);
	__type(value, struct sock_rev);
} fl_sock_rev SEC(".maps");

/* ---- counters ---- */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASON_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PATH_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_paths SEC(".maps");

/* Index: network index * DIR_MAX + enum direction. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_NETWORKS *DIR_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EV_MAX);
	__type(key, __u32);
	__type(value, struct counter);
} fl_events SEC(".maps");
