// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"runtime"
	"slices"
	"time"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// published lists the published ports of a world with the backends b and d, and a client's
// port.
func published() []l4 {
	return []l4{{"tcp", tcp, 5000, publishTCP, "SA"}, {"udp", udp, 5000, publishUDP, ""}}
}

// backend returns the port of the backend.
func (l l4) backend() uint16 {
	if l.proto == tcp {
		return 80
	}
	return 53
}

// client returns a packet of a client outside to an address of the host.
func (s *scenario) client(f family, l l4, dst netip.AddrPort) packet {
	p := packet{src: at(f.remote, l.sport), dst: dst, proto: l.proto, payload: "hello"}
	if l.proto == tcp {
		p.flags = "S"
	}
	return s.outside(p)
}

// asMember returns p on the way into a member's sandbox, to the backend's port.
func (s *scenario) toBackend(f family, name string, p packet, port uint16) packet {
	return s.delivered(name, p.with(func(p *packet) { p.dst = at(f.of(s.members[name]), port) }))
}

// byGateway is like toBackend for a client on this host, whose address is replaced by the
// gateway's. The port is kept, because it is one of those a gateway uses (GATEWAY_PORT_MAX).
func (s *scenario) byGateway(f family, name string, p packet, port uint16) packet {
	got := s.toBackend(f, name, p, port)
	got.src = at(f.gw(s.members[name]), p.src.Port())
	return got
}

// replies makes a member reply to the packet it got; the reply must leave through the uplink
// as one to the packet that the client sent.
func (s *scenario) replies(f family, name string, got, asked packet, flags string, event ...string) {
	s.Helper()
	answer := got.answer(flags)
	out := answer.routed().with(func(p *packet) { p.src = asked.dst })
	s.from(name, answer).neigh(f, out, event...)
	s.leave(out, doneMark).unchanged()
}

func publishOutsideCases() []testCase {
	return slices.Concat(publishedOutside(), publishedTwice(), publishedRefused())
}

func publishedOutside() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_from_outside-peer", func(s *scenario, f family, l l4) {
			for _, host := range []netip.Addr{f.uplink, f.second} {
				s.forget(s.TB)
				p := s.client(f, l, at(host, l.dport))
				got := s.toBackend(f, "b", p, l.backend())
				s.arrive(p).peer("b", got, "ct_created")
				s.replies(f, "b", got, p, l.reply)
				p.flags, got.flags = "A", "A"
				if l.proto == tcp {
					s.arrive(p).peer("b", got, "ct_confirmed")
				}
				s.arrive(p).peer("b", got)
				s.replies(f, "b", got, p, "A")
			}
		}),
		times(all, "published_answer_by_stack-pass", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			got := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", got, "ct_created")
			answer := got.answer(l.reply).routed()
			s.leave(answer, 0).passes(answer.with(func(a *packet) { a.src = p.dst }))
		}),
		times(all, "published_after_host_at_gateway-peer", func(s *scenario, f family, l l4) {
			const port = 9999
			b := s.members["b"]
			p := s.client(f, l, at(f.gw(s.members["a"]), port))
			s.arrive(p).passes(p, "ct_created")
			s.arrive(p).unchanged()
			_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.any, Port: port, Proto: uint8(l.proto),
				Backend: f.of(b), BackendPort: 7, IfIndex: b.IfIndex, Net: b.Net, ID: 300})
			must(s.TB, err)
			defer func() { _, err := s.set.Publishes.Delete(f.any, port, uint8(l.proto)); must(s.TB, err) }()
			s.arrive(p).peer("b", s.toBackend(f, "b", p, 7), "ct_created")
		}),
		[]testCase{{name: "tcp-published_at_gateway_middle_first-peer", run: func(s *scenario, f family) {
			l := published()[0]
			p := s.client(f, l, at(f.gw(s.members["a"]), l.dport))
			stray := p.with(func(p *packet) { p.flags = "A" })
			s.arrive(stray).passes(stray, "ct_created")
			s.leave(stray.answer("R"), 0).unchanged()
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}}},
		times(all, "not_published-pass", func(s *scenario, f family, l l4) {
			s.arrive(s.client(f, l, at(f.uplink, l.dport+1))).unchanged()
		}),
		times(all, "published_without_backend-pass", func(s *scenario, f family, l l4) {
			backends := s.tables["fl_backend"]
			for key := make([]byte, backends.KeySize()); backends.NextKey(nil, &key) == nil; {
				must(s.TB, backends.Delete(key))
			}
			defer func() { _, err := s.set.Publishes.Verify(); must(s.TB, err) }()
			s.arrive(s.client(f, l, at(f.uplink, l.dport))).unchanged()
		}),
		times(all, "published_elsewhere-pass", func(s *scenario, f family, l l4) {
			// an address that does not belong to the host
			s.arrive(s.client(f, l, at(f.barred, l.dport))).unchanged()
		}),
		times(all, "published_not_for_us-pass", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			p.dmac = memberMAC(9, 9)
			s.arrive(p).unchanged()
		}),
	)
}

func publishedTwice() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_one_address_client_port_twice-peer", func(s *scenario, f family, l l4) {
			one, two := s.client(f, l, at(f.uplink, l.dport)), s.client(f, l, at(f.second, l.dport))
			got := s.toBackend(f, "b", one, l.backend())
			s.arrive(one).peer("b", got, "ct_created")
			sending := s.arrive(two)
			r := sending.do()
			moved := port(f, two, r.out)
			event := []string{"ct_created"}
			for range r.counts["event snat_retry"].Packets {
				event = append(event, "snat_retry")
			}
			gotTwo := got.with(func(p *packet) { p.src = at(f.remote, moved) })
			sending.peer("b", gotTwo, event...)
			if moved == l.sport {
				s.Error("two flows are one for the backend")
			}
			s.replies(f, "b", got, one, l.reply)
			answer := gotTwo.answer(l.reply)
			s.from("b", answer).neigh(f, answer.routed().with(func(p *packet) { p.src, p.dst = two.dst, two.src }))
		}),
		times(all, "published_exact_before_wildcard-peer", func(s *scenario, f family, l l4) {
			c := s.members["c"]
			exact := flmaps.Publish{HostIP: f.second, Port: l.dport, Proto: uint8(l.proto),
				Backend: f.of(c), BackendPort: 7, IfIndex: c.IfIndex, Net: c.Net, ID: 200}
			_, err := s.set.Publishes.Put(exact)
			must(s.TB, err)
			defer func() {
				_, err := s.set.Publishes.Delete(f.second, l.dport, uint8(l.proto))
				must(s.TB, err)
			}()
			p := s.client(f, l, at(f.second, l.dport))
			s.arrive(p).peer("c", s.toBackend(f, "c", p, 7), "ct_created")
			p = s.client(f, l, at(f.uplink, l.dport))
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}),
	)
}

func publishedRefused() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_ttl_1-ttl", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			p.ttl = 1
			s.arrive(p).refused("ttl", unpadded{s.uplinkComplains(f, p, timeExceeded(f))})
			p.dst = at(f.second, l.dport) // the error comes from the router on the path, not from the address sent to
			s.arrive(p).refused("ttl", unpadded{s.uplinkComplains(f, p, timeExceeded(f))})
			p.dst, p.ttl = at(f.uplink, l.dport), 2
			first := s.toBackend(f, "b", p, l.backend())
			s.arrive(p).peer("b", first, "ct_created")
			p.ttl = 1
			s.arrive(p).refused("ttl", unpadded{s.uplinkComplains(f, p, timeExceeded(f))})
		}),
		times(all, "published_ttl_1_many-limited", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			p.ttl = 1
			const perTick, tick = 64, 1 << 26 * time.Nanosecond // by each processor (bpf/lib/icmp_send.h)
			told, silent, began := 0, 0, time.Now()
			for told+silent < 2000 || silent == 0 && time.Since(began) < time.Minute { // a busy machine may take longer than the budget
				if s.arrive(p).quick().verdict == redirected {
					told++
				} else {
					silent++
				}
			}
			took := time.Since(began)
			if most := perTick * runtime.NumCPU() * int(2+took/tick); told == 0 || silent == 0 || told > most {
				s.Errorf("%d of %d senders got an error in %v, want some, and at most %d", told, told+silent, took, most)
			}
			time.Sleep(routeRemembered) // the sender in the next case gets an error
		}),
		times(all, "published_source_of_member-spoofed_ip", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			p.src = at(f.of(s.members["a"]), 5000)
			s.arrive(p).dropped("spoofed_ip")
		}),
		times(all, "published_source_impossible-drop", func(s *scenario, f family, l l4) {
			p := s.client(f, l, at(f.uplink, l.dport))
			for _, src := range impossible(f) {
				p.src = at(src, 5000)
				if r := s.arrive(p).do(); r.verdict == redirected {
					s.Errorf("a packet from %s outside reaches the backend", src)
				}
			}
		}),
		times(all, "published_backend_gone-endpoint_gone", func(s *scenario, f family, l l4) {
			_, err := s.set.Endpoints.Delete(s.members["b"].IfIndex)
			must(s.TB, err)
			defer func() { _, err := s.set.Endpoints.Put(s.members["b"].Endpoint); must(s.TB, err) }()
			s.arrive(s.client(f, l, at(f.uplink, l.dport))).dropped("endpoint_gone", "ct_created")
		}),
		[]testCase{
			{name: "tcp-published_one_address-peer", run: func(s *scenario, f family) {
				l := l4{"tcp", tcp, 5000, publishOne, "SA"}
				p := s.client(f, l, at(f.second, l.dport))
				s.arrive(p).peer("c", s.toBackend(f, "c", p, 443), "ct_created")
				s.arrive(s.client(f, l, at(f.uplink, l.dport))).unchanged()
			}},
			{name: "tcp-published_no_syn-pass", run: func(s *scenario, f family) {
				p := s.client(f, published()[0], at(f.uplink, publishTCP))
				for _, flags := range []string{"A", "SA", "R", "RA", "FA", "SR", ""} {
					p.flags = flags
					s.arrive(p).unchanged()
				}
			}},
		},
	)
}

// impossible lists sources that packets from outside never have.
func impossible(f family) []netip.Addr {
	if f.is4() {
		return []netip.Addr{ip("127.0.0.1"), ip("0.0.0.0"), ip("224.0.0.1"), ip("255.255.255.255")}
	}
	return []netip.Addr{ip("::1"), ip("::"), ip("ff02::1")}
}

func publishMembersCases() []testCase {
	return slices.Concat(publishedToMembers(), publishedByPolicy())
}

func publishedToMembers() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_client_of_host-peer", func(s *scenario, f family, l l4) {
			b := s.members["b"]
			for _, client := range []string{"a", "b", "d"} { // of the same network, the backend itself, of another network
				for _, host := range []netip.Addr{f.uplink, f.second, f.gw(s.members[client]), f.gw(b)} {
					s.forget(s.TB)
					p := s.via(f, client, l, at(host, l.dport))
					got := s.byGateway(f, "b", p, l.backend())
					s.from(client, p).peer("b", got, "ct_created")
					answer := got.answer(l.reply)
					s.from("b", answer).peer(client, s.delivered(client, answer.with(func(a *packet) { a.src, a.dst = p.dst, p.src })))
					p.flags, got.flags = "A", "A"
					if l.proto == tcp {
						s.from(client, p).peer("b", got, "ct_confirmed")
					}
					s.from(client, p).peer("b", got)
				}
			}
		}),
		times(all, "published_begun_before_gateway-peer", func(s *scenario, f family, l l4) {
			p, got := s.begunBefore(f, l)
			s.from("a", p).peer("b", got)
			answer := got.answer(l.reply)
			answer.dmac = s.members["a"].MAC
			s.from("b", answer).peer("a", s.delivered("a", answer.with(func(a *packet) { a.src = p.dst })))
			// Packets that are not replies pass unchanged.
			other := answer.with(func(p *packet) { p.src = at(p.src.Addr(), 9999) })
			s.from("b", other).peer("a", other)
		}),
		[]testCase{{name: "published_backend_without_gateway-no_uplink_addr", run: func(s *scenario, f family) {
			s.change(s.TB, "b", func(e *flmaps.Endpoint) { e.Gateway4, e.Gateway6 = netip.Addr{}, netip.Addr{} })
			s.from("a", s.via(f, "a", published()[0], at(f.uplink, publishTCP))).dropped("no_uplink_addr")
		}}},
	)
}

// begunBefore makes a flow of a to b's port as made by versions in which the backend saw the
// client's address: its replies stay on the link. It returns what a sends and b gets.
func (s *scenario) begunBefore(f family, l l4) (p, got packet) {
	s.Helper()
	p = s.via(f, "a", l, at(f.uplink, l.dport))
	through := s.byGateway(f, "b", p, l.backend())
	s.from("a", p).peer("b", through, "ct_created")
	got = s.toBackend(f, "b", p, l.backend())
	orig, reply := s.flowOf(s.TB, p)
	s.dropEntry(s.TB, reversed(orig.Xlat))
	orig.Xlat = got.tuple()
	s.putEntry(s.TB, p.tuple(), orig)
	s.putEntry(s.TB, reversed(orig.Xlat), reply)
	return p, got
}

func publishedByPolicy() []testCase {
	all := published()
	return slices.Concat(
		times(all, "published_client_of_icc_off-peer", func(s *scenario, f family, l l4) {
			p := s.via(f, "e", l, at(f.uplink, l.dport))
			s.from("e", p).peer("b", s.byGateway(f, "b", p, l.backend()), "ct_created")
		}),
		times(all, "published_client_of_internal-internal", func(s *scenario, f family, l l4) {
			s.from("g", s.via(f, "g", l, at(f.uplink, l.dport))).dropped("internal")
		}),
		times(all, "published_client_of_internal_gateway-host", func(s *scenario, f family, l l4) {
			s.from("g", s.via(f, "g", l, at(f.gw(s.members["g"]), l.dport))).toHost()
		}),
		times(all, "names_served_at_gateway-host", func(s *scenario, f family, l l4) {
			// Port 53 is published on every address, except where a network's names are
			// served.
			gw, b := s.members["gw1"], s.members["b"]
			served := flmaps.Neighbour{Net: gw.Net, Addr: f.of(gw), MAC: gw.MAC, IfIndex: gw.IfIndex, Flags: gw.Flags | flmaps.DNS}
			_, err := s.set.Neighbours.Put(served)
			must(s.TB, err)
			_, err = s.set.Publishes.Put(flmaps.Publish{HostIP: f.any, Port: 53, Proto: uint8(l.proto),
				Backend: f.of(b), BackendPort: l.backend(), IfIndex: b.IfIndex, Net: b.Net, ID: 201})
			must(s.TB, err)
			defer func() {
				served.Flags = gw.Flags
				_, err := s.set.Neighbours.Put(served)
				must(s.TB, err)
				_, err = s.set.Publishes.Delete(f.any, 53, uint8(l.proto))
				must(s.TB, err)
			}()
			for _, member := range []string{"a", "d"} {
				s.from(member, s.via(f, member, l, at(f.of(gw), 53))).toHost()
				for _, host := range []netip.Addr{f.uplink, f.gw(s.members["d"])} {
					s.forget(s.TB)
					p := s.via(f, member, l, at(host, 53))
					s.from(member, p).peer("b", s.byGateway(f, "b", p, l.backend()), "ct_created")
				}
			}
		}),
		times(all, "published_gone_member-endpoint_gone", func(s *scenario, f family, l l4) {
			_, err := s.set.Endpoints.Delete(s.members["b"].IfIndex)
			must(s.TB, err)
			defer func() { _, err := s.set.Endpoints.Put(s.members["b"].Endpoint); must(s.TB, err) }()
			s.from("a", s.via(f, "a", l, at(f.uplink, l.dport))).dropped("endpoint_gone")
		}),
		[]testCase{{name: "tcp-published_no_syn-host", run: func(s *scenario, f family) {
			p := s.via(f, "a", published()[0], at(f.uplink, publishTCP))
			for _, flags := range []string{"A", "SA", "R", "RA"} {
				p.flags = flags
				s.from("a", p).toHost()
			}
		}}},
	)
}
