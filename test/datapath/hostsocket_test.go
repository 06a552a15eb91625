// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// bind opens a socket of the host at an address, until the test ends. TCP listens, unless it
// is connected.
func (s *scenario) bind(proto layers.IPProtocol, local netip.AddrPort, connected ...netip.AddrPort) {
	s.Helper()
	var fd int
	var err error
	s.ns.do(func() { fd, err = openSocket(proto, local, connected) })
	must(s.TB, err)
	s.Cleanup(func() { unix.Close(fd) })
}

// openSocket opens a socket in the namespace of the thread. Its packets are never answered,
// so that a TCP socket stays in SYN-SENT.
func openSocket(proto layers.IPProtocol, local netip.AddrPort, connected []netip.AddrPort) (fd int, err error) {
	kind, family := unix.SOCK_STREAM, unix.AF_INET6
	if proto == udp {
		kind = unix.SOCK_DGRAM
	}
	if local.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, sockaddr(local))
	if err == nil && len(connected) > 0 {
		if err = unix.Connect(fd, sockaddr(connected[0])); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	} else if err == nil && proto == tcp {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// The ports of the host's own sockets.
func hostSocketCases() []testCase {
	return slices.Concat(boundPorts(), boundAndPublished())
}

func boundPorts() []testCase {
	all := protocols()[:2]
	return slices.Concat(
		times(all, "bound_by_host-other_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.uplink, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.answers("a", p, s.opensElsewhere(f, l, p), l.reply)
		}),
		times(all, "bound_by_host_anywhere-other_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.any, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			s.answers("a", p, s.opensElsewhere(f, l, p), l.reply)
		}),
		times(all, "bound_by_host_to_both_families-other_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(netip.IPv6Unspecified(), l.sport))
			s.opensElsewhere(f, l, s.via(f, "a", l, at(f.remote, l.dport)))
		}),
		times(all, "bound_by_host_elsewhere-same_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.second, l.sport))
			s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
		}),
		times(all, "connected_by_host-other_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.uplink, l.sport), at(f.remote, l.dport))
			s.opensElsewhere(f, l, s.via(f, "a", l, at(f.remote, l.dport)))
		}),
		times(all, "connected_by_host_to_another-same_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.uplink, l.sport), at(f.router, l.dport))
			s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
		}),
		times(all, "bound_by_host_later-same_port", func(s *scenario, f family, l l4) {
			p := s.via(f, "a", l, at(f.remote, l.dport))
			left := s.opens(f, p, at(f.uplink, l.sport))
			s.bind(l.proto, at(f.uplink, l.sport))
			s.from("a", p).neigh(f, left)
			s.answers("a", p, left, l.reply)
		}),
		times(all, "not_masqueraded_bound_by_host-same_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.any, l.sport))
			p := s.via(f, "i", l, at(f.remote, l.dport))
			s.opens(f, p, p.src)
		}),
		times(all, "routed_by_stack_bound_by_host-other_port", func(s *scenario, f family, l l4) {
			s.bind(l.proto, at(f.uplink, l.sport))
			p := s.via(f, "a", l, at(f.remote, l.dport))
			if got := port(f, p, s.leave(p, 0).do().out); got == l.sport {
				s.Errorf("left with port %d, which a socket of the host has", got)
			}
		}),
	)
}

func boundAndPublished() []testCase {
	return []testCase{
		{name: "udp-published_connected_by_host-pass", run: func(s *scenario, f family) {
			l := published()[1]
			p := s.client(f, l, at(f.uplink, l.dport))
			s.bind(udp, p.dst, p.src)
			s.arrive(p).unchanged() // an answer
			p.src = at(f.remote, p.src.Port()+1)
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}},
		{name: "udp-published_bound_by_host-peer", run: func(s *scenario, f family) {
			l := published()[1]
			p := s.client(f, l, at(f.uplink, l.dport))
			s.bind(udp, at(f.any, l.dport))
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}},
		{name: "tcp-published_connected_by_host-pass", run: func(s *scenario, f family) {
			l := published()[0]
			p := s.client(f, l, at(f.uplink, l.dport))
			s.bind(tcp, p.dst, p.src)
			p.flags = "SA"
			s.arrive(p).unchanged()
		}},
	}
}

// A flow of the host itself that has to use another port avoids the ports that sandboxes'
// flows avoid.
func TestHostMovedPort(t *testing.T) {
	const lo, hi = 50000, 50003
	w := newWorld(t, config{vars: with(featureVars(), map[string]any{"cfg_snat_min": uint16(lo), "cfg_snat_max": uint16(hi)})})
	for _, f := range families() {
		for _, l := range protocols()[:2] {
			t.Run(l.name+"-host_leaving_port_taken-free_port/"+f.name, func(t *testing.T) {
				w.forget(t)
				s := &scenario{TB: t, world: w}
				s.bind(l.proto, at(f.any, lo))
				b := s.members["b"]
				_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.any, Port: lo + 1, Proto: uint8(l.proto),
					Backend: f.of(b), BackendPort: 1, IfIndex: b.IfIndex, Net: b.Net, ID: 300})
				must(t, err)
				defer func() { _, err := s.set.Publishes.Delete(f.any, lo+1, uint8(l.proto)); must(t, err) }()
				for range 40 {
					s.forget(t)
					s.opens(f, s.via(f, "a", l, at(f.remote, l.dport)), at(f.uplink, l.sport))
					host := s.outside(packet{src: at(f.uplink, l.sport), dst: at(f.remote, l.dport), proto: l.proto, flags: "S"})
					if got := port(f, host, s.leave(host, 0).quick().out); got != hi && got != hi-1 {
						t.Fatalf("the host's flow moved to port %d, which is taken", got)
					}
				}
			})
		}
	}
}
