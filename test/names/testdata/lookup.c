// SPDX-License-Identifier: Apache-2.0

// lookup shows the addresses that the C library finds for a name.
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *list, *a;
	int err = getaddrinfo(argv[1], 0, &hints, &list);
	if (err) {
		puts(gai_strerror(err));
		return 1;
	}
	for (a = list; a; a = a->ai_next) {
		char text[INET6_ADDRSTRLEN];
		void *addr = a->ai_family == AF_INET ?
				     (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr :
				     (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		puts(inet_ntop(a->ai_family, addr, text, sizeof text));
	}
	return 0;
}
