/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/*
 * Types shared between the programs and Go (bpf2go generates the Go side).
 *
 * Addresses of both families have one common 16-byte form: IPv6 as it is, IPv4 mapped
 * (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2). NBO: network byte order, HBO: host byte order. No
 * struct has implicit padding, so that two equal keys are equal bytes.
 */

#include <linux/types.h>

union ip {
	__u8 b[16]; /* first: bpf2go turns a union into its first member */
	__be32 w[4];
	__u64 d[2];
};

/* A packet's flow, as in the packet itself. ICMP: in a request, and in any other type but a
 * reply, ask is the type and sport the id. In a reply, answer is the request's type and dport
 * the id. The others are 0, and so is the id of types that have none. Protocols without ports:
 * both are 0. */
struct tuple {
	union ip saddr;
	union ip daddr;
	__be16 sport; /* NBO */
	__be16 dport; /* NBO */
	__u8 proto;   /* IPPROTO_ */
	__u8 ask;
	__u8 answer;
	__u8 pad;
};
_Static_assert(sizeof(struct tuple) == 40, "struct tuple");

/* endpoint.flags */
enum ep_flag {
	EP_HOSTPORT =
		1 << 0, /* the network's host port: any source address, last resort of routing */
	EP_ANTISPOOF = 1 << 1,	/* source MAC and addresses must be the endpoint's own */
	EP_PUBLISHED = 1 << 2,	/* it is the backend of a published port */
	EP_INTERNAL = 1 << 3,	/* its network has no default route */
	EP_ICC = 1 << 4,	/* members of its network may reach each other */
	EP_MASQUERADE = 1 << 5, /* leaves the host with the uplink's address */
	EP_SHAPED = 1 << 6,	/* packets to it must wait in its host end's queue */
	EP_DNS = 1 << 7,	/* a host port at whose addresses the name server listens */
};

/* fl_endpoint: ifindex of the host end (host port: of the datapath's end) -> */
struct endpoint {
	union ip ip4; /* v4-mapped; all zero: none */
	union ip ip6; /* all zero: none */
	union ip gw4; /* the gateway's addresses, likewise */
	union ip gw6;
	__u8 mac[6];
	__u8 gw_mac[6];
	__u32 net;	   /* network index, HBO, < MAX_NETWORKS */
	__u32 flags;	   /* enum ep_flag */
	__u32 hostport_if; /* ifindex of the network's host port, the datapath's end */
	__u32 gateway_if;  /* ifindex of its other end, which has the gateway addresses */
	__u32 mtu;	   /* of its own end, in bytes; 0: not known */
};
_Static_assert(sizeof(struct endpoint) == 96, "struct endpoint");

/* fl_fdb: (network, MAC) -> */
struct fdb_key {
	__u32 net;
	__u8 mac[6];
	__u8 pad[2];
};
_Static_assert(sizeof(struct fdb_key) == 12, "struct fdb_key");

struct fdb_entry {
	__u32 ifindex; /* of the host end */
	__u32 flags;   /* enum ep_flag of that endpoint: EP_HOSTPORT, … */
};

/* fl_neigh: (network, IP) -> */
struct neigh_key {
	union ip addr;
	__u32 net;
	__u32 pad;
};
_Static_assert(sizeof(struct neigh_key) == 24, "struct neigh_key");

struct neigh_entry {
	__u8 mac[6];
	__u8 pad[2];
	__u32 ifindex; /* of the host end */
	__u32 flags;   /* enum ep_flag of that endpoint */
};
_Static_assert(sizeof(struct neigh_entry) == 16, "struct neigh_entry");

/* fl_publish: (host address, port, protocol) -> . An address of all zeros (IPv6) or
 * ::ffff:0.0.0.0 (IPv4) stands for every address of the host. */
struct publish_key {
	union ip addr;
	__be16 port; /* NBO */
	__u8 proto;
	__u8 pad[5];
};
_Static_assert(sizeof(struct publish_key) == 24, "struct publish_key");

struct publish {
	union ip addr; /* of the backend */
	__u32 ifindex; /* of the backend's host end */
	__u32 id;      /* model.Publish.ID */
	__be16 port;   /* NBO, of the backend */
	__u16 pad;
	__u32 net; /* network index of the backend */
};
_Static_assert(sizeof(struct publish) == 32, "struct publish");

/* fl_subnet: longest prefix match over the networks' subnets -> network index */
struct subnet_key {
	__u32 prefixlen; /* 0..128; an IPv4 /n is 96 + n */
	union ip addr;
} __attribute__((packed, aligned(4))); /* a hole before addr would be part of the prefix */
_Static_assert(sizeof(struct subnet_key) == 20, "struct subnet_key");

/* fl_uplink: ifindex -> */
struct uplink {
	union ip ip4; /* to masquerade with if the route prefers none; zero if absent */
	union ip ip6;
	__u32 flags; /* enum up_flag */
	__u32 pad;
};
_Static_assert(sizeof(struct uplink) == 40, "struct uplink");

enum up_flag {
	/* A bridge of containers or guests that other programs manage: the stack forwards
	 * packets to it, so that the rules of those programs hold. */
	UP_STACK = 1 << 0,
	/* From this bit on: the number of uplinks below this one that a packet still passes, as
	 * when a macvlan device is on a card. Only one may translate it. */
	UP_BELOW = 1 << 8,
};
#define UP_BELOW_MAX 7

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
	__u32 in_if;	   /* host end the packets come from; 0: an uplink or the host */
	__u32 out_if;	   /* host end they are delivered to; 0: routed */
	__u32 expires;	   /* CLOCK_MONOTONIC, seconds */
	__u32 publish;	   /* model.Publish.ID that made it; 0: none */
	__u32 created;	   /* CLOCK_MONOTONIC, seconds */
	__u32 policy;	   /* reserved: generation of the policy that allowed it */
	__u16 flags;	   /* enum ct_flag */
	__u16 net;	   /* network index the flow is accounted to */
	__u16 node;	   /* reserved: the node its packets go to; 0: this one */
	__u8 state;	   /* enum ct_state, kept equal in both entries */
	/* TCP, of this direction, with CT_F_SEQ (ct.h): */
	__u8 scale; /* shift of the windows it advertises */
	__u32 end;  /* sequence number after the last byte it sent */
	__u32 ack;  /* latest acknowledgement it sent */
	__u32 win;  /* largest window it advertised, in bytes */
	__u32 pend; /* see ct.h */
};
_Static_assert(sizeof(struct ct_entry) == 88, "struct ct_entry");

/* fl_frag: what a non-first fragment shares with its first -> what only the first has */
struct frag_key {
	union ip saddr;
	union ip daddr;
	__be32 id;  /* IPv4: 16 bits, zero-extended */
	__u8 proto; /* of IPv4's header, or of IPv6's fragment header */
	__u8 pad[3];
};
_Static_assert(sizeof(struct frag_key) == 40, "struct frag_key");

struct frag_entry {
	__be16 sport;
	__be16 dport;
	__u8 proto; /* of layer 4 */
	__u8 ask;   /* as struct tuple */
	__u8 answer;
	__u8 pad;
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
};

/* fl_held: fragments that arrived before their first. */
#define HELD_SLOTS 256
#define HELD_FRAME 2048

enum held_state {
	HELD_FREE,
	HELD_BUSY, /* in use by a program */
	HELD_FULL,
};

struct held {
	struct frag_key key;
	__u32 state;   /* enum held_state */
	__u32 expires; /* CLOCK_MONOTONIC, seconds */
	__u32 ifindex; /* of the device it arrived at */
	__u32 len;     /* of the frame, in bytes */
	__u8 frame[HELD_FRAME];
};
_Static_assert(sizeof(struct held) == 56 + HELD_FRAME, "struct held");

/* fl_sock_rev: the published address that a host socket was redirected from */
struct sock_rev_key {
	__u64 cookie;
	union ip addr; /* backend */
	__be16 port;
	__u8 pad[6];
};
_Static_assert(sizeof(struct sock_rev_key) == 32, "struct sock_rev_key");

struct sock_rev {
	union ip addr; /* the original destination */
	__be16 port;
	__u16 pad;
	__u32 publish;
	__u64 until; /* CLOCK_MONOTONIC, ns: end of the wait for replies; all ones if connected */
};
_Static_assert(sizeof(struct sock_rev) == 32, "struct sock_rev");

/* Why a packet was refused. Append-only and numbered: metrics and users keep
 * the numbers. The name after DROP_, in lower case, is the metric's label. */
enum drop_reason {
	DROP_NONE = 0,
	DROP_MALFORMED = 1,	   /* truncated or inconsistent headers */
	DROP_UNKNOWN_ENDPOINT = 2, /* the device is not (or no longer) an endpoint's */
	DROP_SPOOFED_MAC = 3,
	DROP_SPOOFED_IP = 4,
	DROP_NO_MEMBER = 5, /* unicast to a MAC that no member of the network has */
	DROP_ICC = 6,	    /* member to member where icc=false */
	DROP_ISOLATED = 7,  /* another network's subnet */
	DROP_INTERNAL = 8,  /* out of an internal network */
	DROP_DIRECT = 9,    /* from outside straight to a sandbox's address */
	DROP_LOOPBACK = 10, /* from outside to a loopback address, or from a sandbox */
	DROP_NO_ROUTE = 11,
	DROP_SNAT_EXHAUSTED = 12, /* no free port left to masquerade with */
	DROP_CT_FULL = 13,	  /* the table of flows is full of live ones */
	DROP_FRAG_UNKNOWN = 14,	  /* fragment without a known first nor room to hold it */
	DROP_ENDPOINT_GONE = 15,  /* the flow's endpoint was removed */
	DROP_NAT_FAILED = 16,	  /* the packet could not be rewritten */
	DROP_ARP_UNKNOWN = 17,	  /* ARP or ND for an address that no member has */
	DROP_TTL = 18,		  /* hop limit exceeded on the way to an endpoint */
	DROP_NO_UPLINK_ADDR = 19, /* the uplink has no address to masquerade with */
	DROP_BAD_ICMP = 20,    /* error about a packet never received; routed link-local ICMPv6 */
	DROP_UNSUPPORTED = 21, /* a protocol that cannot be translated */
	DROP_FLOOD = 22,       /* broadcast or multicast that reached no member */
	DROP_TOO_BIG = 23,     /* larger than the next hop's MTU; the sender got an ICMP error */
	DROP_ROGUE_RA = 24,    /* router advertisement from a sandbox */
	DROP_FLOW_LOST = 25,   /* another flow has the port by now */
	DROP_VLAN = 26,	       /* a VLAN tag behind which the receiver's kernel would look */
	DROP_MARTIAN = 27,     /* an address that is never routed, or not at this place */
	DROP_REASON_MAX,
};

/* Where a packet went: proof that the fast path is taken. */
enum fwd_path {
	PATH_PEER = 0,	   /* bpf_redirect_peer: straight into a sandbox */
	PATH_NEIGH = 1,	   /* bpf_redirect_neigh: straight to an uplink */
	PATH_REDIRECT = 2, /* bpf_redirect: to a host port, or through a host end's queue */
	PATH_STACK = 3,	   /* handed to the host's stack to be routed there */
	PATH_FLOOD = 4,	   /* copies to several members */
	PATH_REPLY = 5,	   /* replied to by the program (ARP, ND) */
	PATH_PASS = 6,	   /* passed by a program at an uplink, to the host's stack or out */
	PATH_HELD = 7,	   /* a fragment held until its first arrives */
	PATH_MAX,
};

/* Datapath events other than drops. */
enum ct_event {
	EV_CT_CREATED = 0,	  /* unconfirmed flows created */
	EV_CT_CONFIRMED = 1,	  /* flows moved to fl_ct */
	EV_CT_DELETED = 2,	  /* flows removed from fl_ct */
	EV_CT_NOT_CONFIRMED = 3,  /* no room in fl_ct; the flow stays in fl_ct_new */
	EV_SNAT_RETRY = 4,	  /* ports tried beyond the first */
	EV_SOCK_CONNECT = 5,	  /* host sockets redirected to a backend */
	EV_SOCK_BIND_REFUSED = 6, /* binds of a published port refused */
	EV_FLOOD_CUT = 7,	  /* broadcasts that did not reach all members */
	EV_MAX,
};

/* Packets are accounted to their network, index 1 and up; those that a program sees at an
 * uplink to this index, arriving as DIR_FROM_ENDPOINT and leaving as DIR_TO_ENDPOINT. */
#define NET_UPLINKS 0

enum direction {
	DIR_FROM_ENDPOINT = 0,
	DIR_TO_ENDPOINT = 1,
	DIR_MAX,
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* fl_gc: input and output of gc_flows. User space writes keys of flows that look expired; the
 * program checks again and removes both entries, so that a flow keeps them if a packet arrives
 * in between. */
#define GC_BATCH 256
struct gc_batch {
	__u32 now;     /* CLOCK_MONOTONIC, seconds */
	__u32 count;   /* keys used */
	__u32 removed; /* out */
	__u32 force;   /* 1: remove even if not expired */
	struct tuple keys[GC_BATCH];
};

#define MAX_NETWORKS 4096
