// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	flmaps "github.com/fairlead-net/fairlead/maps"
)

// The ports of b that only some clients reach, and their publish.
const (
	limitedPort    = 8300
	limitedPublish = 410
)

// limited lists these ports, with a client's port.
func limited() []l4 {
	return []l4{{"tcp", tcp, 5000, limitedPort, "SA"}, {"udp", udp, 5000, limitedPort, ""}}
}

// limit publishes the ports for clients of f at every address. Their backend is b, with its address of family of.
func (s *scenario) limit(f, of family, sources ...netip.Prefix) {
	s.Helper()
	b := s.members["b"]
	for _, l := range limited() {
		_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.any, Port: limitedPort, Proto: uint8(l.proto), Backend: of.of(b), BackendPort: l.backend(),
			IfIndex: b.IfIndex, Net: b.Net, ID: limitedPublish, Limited: true})
		must(s.TB, err)
		s.Cleanup(func() { _, err := s.set.Publishes.Delete(f.any, limitedPort, uint8(l.proto)); must(s.TB, err) })
	}
	s.listed(limitedPublish, sources...)
}

// listed makes these the clients of a publish.
func (s *scenario) listed(publish uint32, sources ...netip.Prefix) {
	s.Helper()
	for _, p := range sources {
		_, err := s.set.Sources.Put(flmaps.Source{Publish: publish, Prefix: p})
		must(s.TB, err)
		s.Cleanup(func() { s.unlisted(publish, p) })
	}
}

func (s *scenario) unlisted(publish uint32, p netip.Prefix) {
	s.Helper()
	_, err := s.set.Sources.Delete(flmaps.Source{Publish: publish, Prefix: p})
	must(s.TB, err)
}

func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// around returns a prefix that contains a, and half of which does not.
func around(a netip.Addr) netip.Prefix {
	p, err := a.Prefix(a.BitLen() - 8)
	if err != nil {
		panic(err)
	}
	return p
}

func sourceCases() []testCase {
	return slices.Concat(sourceOutside(), sourceMembers(), sourceDirect())
}

func sourceOutside() []testCase {
	all := limited()
	return slices.Concat(
		times(all, "published_from_client-peer", func(s *scenario, f family, l l4) {
			for _, from := range []netip.Prefix{alone(f.remote), around(f.remote), netip.PrefixFrom(f.any, 0)} {
				s.forget(s.TB)
				s.limit(f, f, from)
				p := s.client(f, l, at(f.uplink, l.dport))
				got := s.toBackend(f, "b", p, l.backend())
				s.arrive(p).peer("b", got, "ct_created")
				s.replies(f, "b", got, p, l.reply)
				s.unlisted(limitedPublish, from)
				// The flow goes on, and a new one does not begin.
				s.arrive(p).peer("b", got)
				other := p.with(func(p *packet) { p.src = at(f.remote, l.sport+1) })
				s.arrive(other).dropped("publish_from")
			}
		}),
		times(all, "published_from_others-publish_from", func(s *scenario, f family, l l4) {
			o := f.other()
			s.limit(f, f, alone(f.remote.Next()), alone(f.chosen), alone(f.uplink), netip.PrefixFrom(o.any, 0))
			s.listed(limitedPublish+1, alone(f.remote))
			p := s.client(f, l, at(f.uplink, l.dport))
			s.arrive(p).dropped("publish_from")
			p.dst = at(f.second, l.dport)
			s.arrive(p).dropped("publish_from")
			p.ttl = 1 // a client that is refused learns nothing
			s.arrive(p).dropped("publish_from")
		}),
		times(all, "published_from_nobody-publish_from", func(s *scenario, f family, l l4) {
			s.limit(f, f)
			s.arrive(s.client(f, l, at(f.uplink, l.dport))).dropped("publish_from")
		}),
		times(all, "published_from_impossible_source-spoofed_ip", func(s *scenario, f family, l l4) {
			s.limit(f, f, netip.PrefixFrom(f.any, 0))
			for _, src := range impossible(f) {
				p := s.client(f, l, at(f.uplink, l.dport))
				p.src = at(src, l.sport)
				s.arrive(p).dropped("spoofed_ip")
			}
		}),
		// The client is judged by its own address, not by the gateway's that the backend sees.
		times(all, "published_from_client_of_other_family-peer", func(s *scenario, f family, l l4) {
			s.limit(f, f.other(), around(f.remote))
			p := s.requests(f, l)
			s.arrive(p).becomes(s.requested(f, l, p), "ct_created")
		}),
		times(all, "published_from_gateway_of_other_family-publish_from", func(s *scenario, f family, l l4) {
			o := f.other()
			s.limit(f, o, netip.PrefixFrom(o.any, 0), alone(o.gw(s.members["b"])))
			s.arrive(s.requests(f, l)).dropped("publish_from")
		}),
		times(published(), "published_to_all_with_sources-peer", func(s *scenario, f family, l l4) {
			s.listed(101, alone(f.chosen))
			s.listed(102, alone(f.chosen))
			p := s.client(f, l, at(f.uplink, l.dport))
			s.arrive(p).peer("b", s.toBackend(f, "b", p, l.backend()), "ct_created")
		}),
	)
}

func sourceMembers() []testCase {
	clients := []string{"a", "b", "d"} // of the same network, the backend itself, of another network
	return slices.Concat(
		times(limited(), "published_from_member-peer", func(s *scenario, f family, l l4) {
			for _, client := range clients {
				for _, host := range []netip.Addr{f.uplink, f.gw(s.members[client])} {
					s.forget(s.TB)
					s.limit(f, f, alone(f.of(s.members[client])))
					p := s.via(f, client, l, at(host, l.dport))
					s.from(client, p).peer("b", s.byGateway(f, "b", p, l.backend()), "ct_created")
					s.unlisted(limitedPublish, alone(f.of(s.members[client])))
				}
			}
		}),
		times(limited(), "published_from_other_member-publish_from", func(s *scenario, f family, l l4) {
			s.limit(f, f, alone(f.remote), alone(f.uplink), alone(f.gw(s.members["b"])), alone(f.of(s.members["c"])))
			for _, client := range clients {
				p := s.via(f, client, l, at(f.uplink, l.dport))
				s.from(client, p).dropped("publish_from")
				p.ttl = 1
				s.from(client, p).dropped("publish_from")
			}
		}),
	)
}

// limitDirect limits the clients of d's open port in gateway mode routed.
func (s *scenario) limitDirect(f family, l l4, sources ...netip.Prefix) {
	s.Helper()
	d := s.members["d"]
	_, err := s.set.Publishes.Put(flmaps.Publish{HostIP: f.of(d), Port: directPort, Proto: uint8(l.proto), Backend: f.of(d), BackendPort: directPort,
		IfIndex: d.IfIndex, Net: d.Net, ID: directPublish, Direct: true, Limited: true})
	must(s.TB, err)
	s.listed(directPublish, sources...)
}

func sourceDirect() []testCase {
	all := direct()[:2]
	return slices.Concat(
		times(all, "routed_from_client-peer", func(s *scenario, f family, l l4) {
			s.routed()
			s.limitDirect(f, l, around(f.remote), alone(f.of(s.members["a"])))
			s.reaches(f, s.client(f, l, at(f.of(s.members["d"]), l.dport)), l.reply, "ct_created")
			s.forget(s.TB)
			p := s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))
			s.from("a", p).peer("d", s.byGateway(f, "d", p, l.dport), "ct_created")
		}),
		times(all, "routed_from_others-publish_from", func(s *scenario, f family, l l4) {
			s.routed()
			s.limitDirect(f, l, alone(f.remote.Next()), alone(f.gw(s.members["d"])))
			s.arrive(s.client(f, l, at(f.of(s.members["d"]), l.dport))).dropped("publish_from")
			s.from("a", s.via(f, "a", l, at(f.of(s.members["d"]), l.dport))).dropped("publish_from")
		}),
		// Every port of a member is open there, whatever is published.
		times(all, "unprotected_from_others-peer", func(s *scenario, f family, l l4) {
			s.unprotected()
			s.limit(f, f, alone(f.chosen))
			s.reaches(f, s.client(f, l, at(f.of(s.members["d"]), l.dport)), l.reply, "ct_created")
		}),
	)
}
