/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Load-time configuration. The loader sets these before the programs are
 * verified; branches they decide are removed by the verifier. It also sets max_entries of the
 * maps whose size is an option; the sizes in the headers are the defaults.
 */

#include <linux/types.h>

/* Cookie of the network namespace the daemon serves (SO_NETNS_COOKIE). */
volatile const __u64 cfg_netns_cookie = 0;

/* Ports a masqueraded flow may be moved to when its own is taken, HBO, inclusive. */
volatile const __u16 cfg_snat_min = 32768;
volatile const __u16 cfg_snat_max = 60999;

/* skb->mark of a packet that is already translated, for to_uplink, plus the number of uplinks
 * below the next uplink it passes (UP_BELOW). */
volatile const __u32 cfg_mark = 0xf1a17ead;

/* Copies of a broadcast that one run of a program makes. */
volatile const __u16 cfg_flood_slice = 256;

/* The kernel knows BPF_FIB_LOOKUP_SRC (6.7, commit dab4e1f06cab, backported to some). */
volatile const __u8 cfg_fib_src = 0;

/* The kernel's connection tracking can be queried (5.18, nf_conntrack loaded, and a JIT). */
volatile const __u8 cfg_conntrack = 0;

/* Entries of fl_ct. */
volatile const __u32 cfg_ct_max = 524288;

/* UDP port of the overlay's tunnels, HBO; 0: there is no overlay. */
volatile const __u16 cfg_vxlan_port = 0;

/* The kernel knows BPF_F_ADJ_ROOM_DECAP_L3_IPV4 and _IPV6 (6.3). */
volatile const __u8 cfg_decap_l3 = 0;

/* The datagram of a direction of a UDP flow, of those that change nothing, from which on its decision is
 * cached (decision.h); 0: nothing is cached. */
volatile const __u8 cfg_cache = 4;

/* The kernel has bpf_cast_to_kern_ctx (6.2). */
volatile const __u8 cfg_kern_ctx = 0;
