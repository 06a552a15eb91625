// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/bpf"
)

// Resolver is where the queries of a network namespace to 127.0.0.11 are redirected to.
type Resolver struct {
	Cookie uint64     // of the network namespace
	IPv4   netip.Addr // zero: none
	IPv6   netip.Addr // IPv6 sockets query the address itself; zero: none
}

// String is for logs.
func (r Resolver) String() string {
	return fmt.Sprintf("resolver of namespace %d at %v and %v", r.Cookie, r.IPv4, r.IPv6)
}

func (r Resolver) raw() (uint64, bpf.SockResolver) {
	return r.Cookie, bpf.SockResolver{Addr4: bpf.SockIp(bpf.IPOf(r.IPv4)), Addr6: bpf.SockIp(bpf.IPOf(r.IPv6))}
}

func resolverFrom(cookie uint64, v bpf.SockResolver) Resolver {
	return Resolver{Cookie: cookie, IPv4: bpf.TCIp(v.Addr4).Addr(), IPv6: bpf.TCIp(v.Addr6).Addr()}
}

// Resolvers is fl_resolver: name servers by network namespace.
type Resolvers struct {
	view[uint64, bpf.SockResolver, Resolver]
}
