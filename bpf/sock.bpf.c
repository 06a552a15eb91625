//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The cgroup programs: published ports for clients on the host itself.
 *
 * When a process of the host connects to a published address, the socket is redirected to the
 * backend, so its packets need no translation. The process still sees the address it connected to
 * (recvmsg, getpeername). While a port is published, no process of the host can bind it, as if
 * another process listened there.
 *
 * The programs are attached at the root of the cgroup tree, so they run for every process. They
 * ignore processes outside the network namespace of the daemon, except those of sandboxes that
 * query the name server (lib/resolver.h).
 */

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>
#include "lib/addr.h"
#include "lib/config.h"
#include "lib/count.h"
#include "lib/endpoint.h"
#include "lib/hostaddr.h"
#include "lib/maglev.h"
#include "lib/portbits.h"
#include "lib/resolver.h"
#include "lib/service.h"
#include "lib/sock_rev.h"
#include "lib/tuple.h"

#define ALLOW 1
#define REFUSE 0

#define EADDRINUSE 98

/* The destination of a socket call, with the address in the common form. */
struct target {
	union ip addr;
	__be16 port;
	__u8 proto;
	bool is4; /* the socket call is IPv4's */
};

static __always_inline bool ours(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == cfg_netns_cookie;
}

static __always_inline bool read_target(struct bpf_sock_addr *ctx, struct target *d, bool is4)
{
	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return false;
	d->proto = ctx->protocol;
	d->port = (__be16)ctx->user_port;
	d->is4 = is4;
	if (is4) {
		ip_set4(&d->addr, ctx->user_ip4);
		return true;
	}
	d->addr.w[0] = ctx->user_ip6[0];
	d->addr.w[1] = ctx->user_ip6[1];
	d->addr.w[2] = ctx->user_ip6[2];
	d->addr.w[3] = ctx->user_ip6[3];
	return true;
}

static __always_inline void write_target(struct bpf_sock_addr *ctx, const union ip *addr,
					 __be16 port, bool is4)
{
	ctx->user_port = port;
	if (is4) {
		ctx->user_ip4 = addr->w[3];
		return;
	}
	ctx->user_ip6[0] = addr->w[0];
	ctx->user_ip6[1] = addr->w[1];
	ctx->user_ip6[2] = addr->w[2];
	ctx->user_ip6[3] = addr->w[3];
}

/* The service at destination *d, or NULL. */
static __always_inline struct service *service_of(const struct target *d)
{
	bool loopback = ip_is_loopback(&d->addr), unspecified;
	union ip any = {};
	struct service *s;

	if (!port_published(d->proto, d->port))
		return NULL;
	if (ip_is4(&d->addr))
		ip_set4(&any, 0);
	/* Connecting to the unspecified address means the loopback (ip(7)). */
	unspecified = ip_equal(&d->addr, &any);
	/* Any other address is not local, whatever ports are published. */
	if (!loopback && !unspecified && !host_addr(&d->addr))
		return NULL;
	s = service_find(&d->addr, d->port, d->proto);
	if (s || ip_is4(&d->addr) || names_served(&d->addr, d->port))
		return s;
	/* [::1] of a port whose backend has IPv4 only: an IPv6 socket can speak
	 * IPv4 (RFC 4291 section 2.5.5.2). */
	ip_set4(&any, 0);
	return service_find(&any, d->port, d->proto);
}

/* Can a socket call of this family reach the backend? An unconnected IPv6 socket cannot be
 * redirected to IPv4: udpv6_sendmsg() refuses that with ENOTSUPP. */
static __always_inline bool reachable(const struct target *d, const struct backend *b,
				      bool connects)
{
	if (ip_is4(&d->addr) == ip_is4(&b->addr))
		return true;
	return !d->is4 && connects;
}

/* Is the socket bound to a device that the backend is not behind? */
static __always_inline bool bound_elsewhere(struct bpf_sock_addr *ctx, const struct backend *b)
{
	__u32 bound = ctx->sk ? ctx->sk->bound_dev_if : 0;
	struct endpoint *ep;

	if (!bound)
		return false;
	ep = endpoint_find(b->ifindex);
	return !ep || ep->gateway_if != bound;
}

/* Redirects a query of a sandbox to the name server. It needs no entry for the reply: nothing else
 * uses the server's port. */
static __always_inline int redirect_to_resolver(struct bpf_sock_addr *ctx, bool is4)
{
	const union ip *to;
	struct resolver *r;
	struct target d;

	if ((__be16)ctx->user_port != bpf_htons(DNS_PORT) || !read_target(ctx, &d, is4))
		return ALLOW;
	r = resolver_of(bpf_get_netns_cookie(ctx));
	if (!r)
		return ALLOW;
	if (ip_is4(&d.addr))
		to = d.addr.w[3] == bpf_htonl(RESOLVER_ADDR) ? &r->addr4 : NULL;
	else
		to = ip_equal(&d.addr, &r->addr6) ? &r->addr6 : NULL;
	if (to && !ip_is_zero(to))
		write_target(ctx, to, bpf_htons(RESOLVER_PORT), is4);
	return ALLOW;
}

/* Replaces the address of the name server by the address that the query was sent to. */
static __always_inline int restore_resolver(struct bpf_sock_addr *ctx, bool is4)
{
	struct resolver *r;
	struct target d;
	union ip a;

	/* The port is compared first: this runs for every datagram that a sandbox receives. */
	if ((__be16)ctx->user_port != bpf_htons(RESOLVER_PORT) || !read_target(ctx, &d, is4))
		return ALLOW;
	r = resolver_of(bpf_get_netns_cookie(ctx));
	if (!r)
		return ALLOW;
	if (ip_equal(&d.addr, &r->addr4))
		ip_set4(&a, bpf_htonl(RESOLVER_ADDR));
	else if (ip_equal(&d.addr, &r->addr6))
		a = d.addr;
	else
		return ALLOW;
	write_target(ctx, &a, bpf_htons(DNS_PORT), is4);
	return ALLOW;
}

/* How long replies to a datagram are accepted, in nanoseconds: as long as its flow lives. */
#define REPLY_TIME 30000000000ULL

/* Does the socket still wait for replies from this backend to another address? Replies to both
 * would look the same. */
static __always_inline bool reply_ambiguous(const struct sock_rev_key *k, const struct sock_rev *v,
					    __u64 now)
{
	struct sock_rev *old = bpf_map_lookup_elem(&fl_sock_rev, k);

	return old && old->until > now && (old->port != v->port || !ip_equal(&old->addr, &v->addr));
}

static __always_inline int redirect_to_backend(struct bpf_sock_addr *ctx, bool is4, bool connects)
{
	struct sock_rev_key k = {};
	struct sock_rev v = {};
	struct service *s;
	struct backend *b;
	struct tuple t = {};
	struct target d;

	if (!ours(ctx))
		return redirect_to_resolver(ctx, is4);
	if (!read_target(ctx, &d, is4))
		return ALLOW;
	/* The host is one client. Its port is not known yet, so the socket stands for it. */
	t.sport = bpf_get_socket_cookie(ctx);
	t.dport = d.port;
	t.proto = d.proto;
	s = service_of(&d);
	b = service_backend(s, &t);
	if (!b || !reachable(&d, b, connects) || bound_elsewhere(ctx, b))
		return ALLOW;
	k.cookie = bpf_get_socket_cookie(ctx);
	k.addr = b->addr;
	k.port = s->port;
	v.addr = d.addr;
	v.port = d.port;
	v.publish = s->id;
	v.until = ~0ULL;
	if (!connects) {
		__u64 now = bpf_ktime_get_ns();

		if (reply_ambiguous(&k, &v, now)) {
			bpf_set_retval(-EADDRINUSE);
			return REFUSE;
		}
		v.until = now + REPLY_TIME;
	}
	if (bpf_map_update_elem(&fl_sock_rev, &k, &v, BPF_ANY))
		return ALLOW;
	write_target(ctx, &b->addr, s->port, is4);
	count_event(EV_SOCK_CONNECT);
	return ALLOW;
}

/* Replaces the address of the backend by the address the process used. */
static __always_inline int restore_target(struct bpf_sock_addr *ctx, bool is4)
{
	struct sock_rev_key k = {};
	struct sock_rev *v;
	struct target d;

	if (!ours(ctx))
		return restore_resolver(ctx, is4);
	if (!read_target(ctx, &d, is4))
		return ALLOW;
	k.cookie = bpf_get_socket_cookie(ctx);
	k.addr = d.addr;
	k.port = d.port;
	v = bpf_map_lookup_elem(&fl_sock_rev, &k);
	if (v)
		write_target(ctx, &v->addr, v->port, is4);
	return ALLOW;
}

static __always_inline int bind(struct bpf_sock_addr *ctx, bool is4)
{
	union ip any = {};
	struct target d;

	if (!ours(ctx) || !read_target(ctx, &d, is4) || !d.port || !port_published(d.proto, d.port))
		return ALLOW;
	if (is4)
		ip_set4(&any, 0);
	/* The wildcard address collides with every publish at this port. */
	if (!ip_equal(&d.addr, &any) && !service_find(&d.addr, d.port, d.proto))
		return ALLOW;
	count_event(EV_SOCK_BIND_REFUSED);
	bpf_set_retval(-EADDRINUSE);
	return REFUSE;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return redirect_to_backend(ctx, true, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return redirect_to_backend(ctx, false, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return redirect_to_backend(ctx, true, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return redirect_to_backend(ctx, false, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_target(ctx, true);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_target(ctx, false);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore_target(ctx, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore_target(ctx, false);
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return bind(ctx, true);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return bind(ctx, false);
}

char _license[] SEC("license") = "Dual BSD/GPL";
