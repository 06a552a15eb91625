// SPDX-License-Identifier: Apache-2.0

/*
 * The loads of bench/load by count: load bench-load {serve all|run KIND} FLAGS, with
 * the flags that bench/arena.go gives. run makes --count transactions after a few that warm
 * up, and prints how many nanoseconds one takes; where the clock follows instructions,
 * these are instructions.
 *
 * The server is the same for all, so that one world serves them one after another.
 *
 *	rr      one TCP connection; a request of --size bytes, a response of the same size
 *	crr     a connection for each transaction: connect, 1 byte, 1 byte; the server
 *	        closes first
 *	bursts  datagrams of --size bytes, BURST at once, and one answer; one datagram
 *	        counts as a transaction
 *
 * It is in C: threads of Go's runtime wake up while a system call waits, and what they
 * add to a transaction differs by a tenth of it from one round to the next.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	BURST = 32,
	WARM_UP = 64, /* transactions; the first ones of a connection are acknowledged differently */
	MAX_SIZE = 65536,
};

/* The first byte of a datagram, and of a connection. LONG: its messages have the length that its
 * second to fifth byte say, and not one byte. */
enum { MORE, LAST /* of its burst; the only one of its connection */, LONG };

static struct sockaddr_storage address;
static socklen_t address_len;
static long size = 1, count;
static char message[MAX_SIZE];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* A_ADDR:PORT, of IPv6 in brackets. */
static void parse_address(char *text)
{
	struct sockaddr_in *v4 = (void *)&address;
	struct sockaddr_in6 *v6 = (void *)&address;
	char *port = strrchr(text, ':');

	if (!port) {
		fprintf(stderr, "address %s has no port\n", text);
		exit(2);
	}
	*port++ = 0;
	if (*text == '[') {
		text[strlen(text) - 1] = 0;
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(port));
		address_len = sizeof(*v6);
		if (inet_pton(AF_INET6, text + 1, &v6->sin6_addr) == 1)
			return;
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(port));
		address_len = sizeof(*v4);
		if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
			return;
	}
	fprintf(stderr, "address %s is none\n", text);
	exit(2);
}

static int open_socket(int type)
{
	int fd = socket(address.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static void set_option(int fd, int level, int option)
{
	int one = 1;

	if (setsockopt(fd, level, option, &one, sizeof(one)))
		die("setsockopt");
}

static int bound(int type)
{
	int fd = open_socket(type);

	set_option(fd, SOL_SOCKET, SO_REUSEADDR);
	if (address.ss_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY);
	if (bind(fd, (void *)&address, address_len))
		die("bind");
	return fd;
}

/* The server may not be there yet; the process that started this one sets the limit. */
static int dial(int type)
{
	for (;;) {
		int fd = open_socket(type);

		if (!connect(fd, (void *)&address, address_len))
			return fd;
		if (errno != ECONNREFUSED)
			die("connect");
		close(fd);
		usleep(5000);
	}
}

/* read_full returns 0 if n bytes have been read. */
static int read_full(int fd, char *b, long n)
{
	while (n > 0) {
		long r = read(fd, b, n);

		if (r <= 0)
			return -1;
		b += r;
		n -= r;
	}
	return 0;
}

static void exchange(int fd)
{
	if (write(fd, message, size) != size)
		die("write");
	if (read_full(fd, message, size))
		die("read");
}

static void serve_connection(int fd)
{
	uint32_t len = 1;

	if (read_full(fd, message, 1))
		return;
	if (message[0] == LAST) {
		if (write(fd, message, 1) != 1)
			die("write");
		return;
	}
	set_option(fd, IPPROTO_TCP, TCP_NODELAY);
	if (message[0] == LONG) {
		if (read_full(fd, message + 1, sizeof(len)))
			return;
		memcpy(&len, message + 1, sizeof(len));
		if (len > MAX_SIZE || read_full(fd, message + 1 + sizeof(len), len - 1 - sizeof(len)))
			return;
	}
	while (write(fd, message, len) == len && !read_full(fd, message, len))
		;
}

static void accept_each(void)
{
	int l = bound(SOCK_STREAM);

	if (listen(l, 1024))
		die("listen");
	for (;;) {
		int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			die("accept");
		serve_connection(fd);
		close(fd);
	}
}

/*
 * serve_bursts reads when no other thread wants the processor: a client on the same one has
 * then sent its burst before the first of it is read, every time.
 */
static void serve_bursts(void)
{
	struct sched_param none = {0};
	int fd = bound(SOCK_DGRAM);

	if (sched_setscheduler(0, SCHED_IDLE, &none))
		die("sched_setscheduler");
	for (;;) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);

		if (recvfrom(fd, message, sizeof(message), 0, (void *)&from, &len) < 0)
			die("recvfrom");
		if (message[0] == LAST && sendto(fd, message, 1, 0, (void *)&from, len) != 1)
			die("sendto");
	}
}

/* in_child says whether this is the new process, which dies with its parent. */
static bool in_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid && prctl(PR_SET_PDEATHSIG, SIGKILL))
		die("prctl");
	return !pid;
}

/* The given address is any of IPv4; the same port of IPv6 has sockets of its own. */
static void serve_all(void)
{
	struct sockaddr_in6 any = {
		.sin6_family = AF_INET6,
		.sin6_port = ((struct sockaddr_in *)&address)->sin_port,
	};

	if (in_child()) {
		memcpy(&address, &any, sizeof(any));
		address_len = sizeof(any);
	}
	if (in_child())
		serve_bursts();
	accept_each();
}

/* connected is the socket of the loads that use only one. */
static int connected;

static void start_rr(void)
{
	uint32_t len = size;

	if (size > (long)sizeof(len)) {
		message[0] = LONG;
		memcpy(message + 1, &len, sizeof(len));
	}
	connected = dial(SOCK_STREAM);
	set_option(connected, IPPROTO_TCP, TCP_NODELAY);
}

static void transact_rr(void)
{
	exchange(connected);
}

static void transact_crr(void)
{
	int fd = dial(SOCK_STREAM);

	message[0] = LAST;
	exchange(fd);
	if (read(fd, message, 1) != 0)
		die("the server sent more than its answer");
	close(fd);
}

static int send_burst(void)
{
	for (int i = 0; i < BURST; i++) {
		message[0] = i == BURST - 1 ? LAST : MORE;
		if (write(connected, message, size) != size)
			return -1;
	}
	return read(connected, message, size) == 1 ? 0 : -1;
}

static void start_bursts(void)
{
	struct timeval patience = {.tv_sec = 2};

	connected = dial(SOCK_DGRAM);
	if (setsockopt(connected, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		die("setsockopt");
	while (send_burst()) /* the server may not be there yet */
		usleep(5000);
}

static void transact_bursts(void)
{
	if (send_burst())
		die("a burst was not answered");
}

static const struct load {
	const char *name;
	void (*start)(void);
	void (*transact)(void);
	int unit; /* of the count, in one transaction */
} loads[] = {
	{"rr", start_rr, transact_rr, 1},
	{"crr", NULL, transact_crr, 1},
	{"bursts", start_bursts, transact_bursts, BURST},
};

static int64_t now(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_MONOTONIC, &t))
		die("clock_gettime");
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Marks for ../plugin, which are nothing to a processor: nopl with a displacement that no compiler
 * makes. */
#define MARK_BEGIN() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0, 0xef, 0xbe, 0xad, 0x0d")
#define MARK_END() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0, 0xee, 0xbe, 0xad, 0x0d")

static void run(const struct load *l)
{
	long transactions = count / l->unit;
	int64_t began;

	if (l->start)
		l->start();
	for (int i = 0; i < WARM_UP; i++)
		l->transact();
	began = now();
	MARK_BEGIN();
	for (long i = 0; i < transactions; i++)
		l->transact();
	MARK_END();
	printf("{\"ns\": %.1f}\n", (double)(now() - began) / (transactions * l->unit));
}

static void parse_flags(char **arg)
{
	for (; arg[0] && arg[1]; arg += 2) {
		if (!strcmp(arg[0], "--address"))
			parse_address(arg[1]);
		else if (!strcmp(arg[0], "--size"))
			size = atol(arg[1]);
		else if (!strcmp(arg[0], "--count"))
			count = atol(arg[1]);
		/* The others are for more than one processor, and other loads. */
	}
}

int main(int argc, char **argv)
{
	bool serve = argc > 3 && !strcmp(argv[2], "serve") && !strcmp(argv[3], "all");
	const struct load *l = NULL;

	for (size_t i = 0; argc > 3 && i < sizeof(loads) / sizeof(*loads); i++)
		if (!strcmp(argv[3], loads[i].name))
			l = &loads[i];
	if (!l && !serve) {
		fprintf(stderr, "usage: load bench-load {serve all|run {rr|crr|bursts}} FLAGS\n");
		return 2;
	}
	parse_flags(argv + 4);
	if (!address_len || size < 1 || size > MAX_SIZE) {
		fprintf(stderr, "load: --address is missing, or --size is not a message's\n");
		return 2;
	}
	if (serve)
		serve_all();
	if (count < l->unit || count % l->unit) {
		fprintf(stderr, "load: --count %ld is not a multiple of %d\n", count, l->unit);
		return 2;
	}
	run(l);
	return 0;
}
