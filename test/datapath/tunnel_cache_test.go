// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps"
)

// pairTunnel is PAIR_TUNNEL: a pair whose receiver is on another node.
const pairTunnel = 0x100

// tunnelHits returns how many frames to other nodes, and from them, took a cached path.
func (s *scenario) tunnelHits() (out, in uint32) {
	s.Helper()
	var key uint32
	var pairs []bpf.TCPair
	entries := s.tables["fl_pair"].Iterate()
	for entries.Next(&key, &pairs) {
		for _, p := range pairs {
			if p.Kind == pairTunnel {
				out += p.Hits
			}
		}
	}
	must(s.TB, entries.Err())
	var arrivals []bpf.TCArrival
	entries = s.tables["fl_arrival"].Iterate()
	for entries.Next(&key, &arrivals) {
		for _, a := range arrivals {
			in += a.Hits
		}
	}
	must(s.TB, entries.Err())
	return out, in
}

// cachesOut sends p of member a to the member behind the tunnel until its path is cached.
func (s *scenario) cachesOut(n tunnel, p packet) {
	s.Helper()
	before, _ := s.tunnelHits()
	for range 100 { // a processor, or the next tick, has nothing cached yet
		s.from("a", p).tunnelled(n, p, 0)
		if now, _ := s.tunnelHits(); now > before {
			return
		}
	}
	s.Error("of 100 frames to another node none took the cached path")
}

// cachesIn lets p arrive for member a from the one behind the tunnel until its path is cached.
func (s *scenario) cachesIn(n tunnel, p packet) {
	s.Helper()
	_, before := s.tunnelHits()
	for range 100 {
		s.arrive(s.wrapped(n, p)).peer("a", p)
		if _, now := s.tunnelHits(); now > before {
			return
		}
	}
	s.Error("of 100 frames from another node none took the cached path")
}

// otherThan returns the tunnel to another node.
func otherThan(n tunnel) tunnel {
	all := tunnels()
	return all[1-slices.IndexFunc(all, func(m tunnel) bool { return m.node == n.node })]
}

// without removes what stands in a table, and puts it back after the scenario.
func without[D any](s *scenario, list []D, is func(D) bool, put func(D) (bool, error), remove func(D) (bool, error)) {
	s.Helper()
	i := slices.IndexFunc(list, is)
	if i < 0 {
		s.Fatal("the table has no such entry")
	}
	_, err := remove(list[i])
	must(s.TB, err)
	s.Cleanup(func() {
		_, err := put(list[i])
		must(s.TB, err)
	})
}

// moveFar moves the member behind a tunnel to another node, until the scenario ends.
func (s *scenario) moveFar(n tunnel, node uint16) {
	s.Helper()
	must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: n.mac, Node: node}))
	s.Cleanup(func() { must(s.TB, s.set.PeerFDB.Put(maps.PeerFDBEntry{Net: netPlain, MAC: n.mac, Node: n.node})) })
}

// tunnelCacheCases lists what must end what is cached of tunnels at once, or must not take it.
func tunnelCacheCases() []testCase {
	out := func(name string, after func(*scenario, family, tunnel, packet)) []testCase {
		return over("cached_out_"+name, func(s *scenario, f family, n tunnel) {
			p := s.toFar(f, "a", n)
			s.cachesOut(n, p)
			after(s, f, n, p)
		})
	}
	in := func(name string, after func(*scenario, family, tunnel, packet)) []testCase {
		return over("cached_in_"+name, func(s *scenario, f family, n tunnel) {
			p := s.fromFar(f, "a", n)
			s.cachesIn(n, p)
			after(s, f, n, p)
		})
	}
	noNode := func(s *scenario, n tunnel) {
		without(s, s.set.Nodes.List(), func(m maps.Node) bool { return m.ID == n.node }, s.set.Nodes.Put,
			func(m maps.Node) (bool, error) { return s.set.Nodes.Delete(m.ID) })
	}
	return slices.Concat(
		out("member_moves-follows", func(s *scenario, _ family, n tunnel, p packet) {
			other := otherThan(n)
			s.moveFar(n, other.node)
			s.from("a", p).tunnelled(other, p, 0)
		}),
		out("node_removed-no_node", func(s *scenario, _ family, n tunnel, p packet) {
			noNode(s, n)
			s.from("a", p).dropped("no_node")
		}),
		out("icc_off-icc", func(s *scenario, _ family, _ tunnel, p packet) {
			s.change(s.TB, "a", func(e *maps.Endpoint) { e.Flags &^= maps.ICC })
			s.from("a", p).dropped("icc")
		}),
		out("odd_frames-whole_path", func(s *scenario, f family, n tunnel, p packet) {
			s.from("a", p.with(func(q *packet) { q.smac[5] ^= 0x40 })).dropped("spoofed_mac")
			s.from("a", p.with(func(q *packet) { q.src = at(f.of(s.members["b"]), 1000) })).dropped("spoofed_ip")
			s.from("b", p).dropped("spoofed_mac")
			s.from("a", p.with(func(q *packet) { q.dmac = awayMAC })).dropped("no_node")
			ce := p.with(func(q *packet) { q.tos = 3 })
			s.from("a", ce).tunnelled(n, ce, 2)
		}),
		in("node_removed-tunnel_source", func(s *scenario, _ family, n tunnel, p packet) {
			without(s, s.set.NodeAddrs.List(), func(a maps.NodeAddr) bool { return a.Node == n.node }, s.set.NodeAddrs.Put,
				func(a maps.NodeAddr) (bool, error) { return s.set.NodeAddrs.Delete(a.Addr) })
			s.arrive(s.wrapped(n, p)).dropped("tunnel_source")
		}),
		in("sender_moves-tunnel_mac", func(s *scenario, _ family, n tunnel, p packet) {
			s.moveFar(n, otherThan(n).node)
			s.arrive(s.wrapped(n, p)).dropped("tunnel_mac")
		}),
		in("network_removed-unchanged", func(s *scenario, _ family, n tunnel, p packet) {
			without(s, s.set.VNIs.List(), func(v maps.VNI) bool { return v.VNI == plainVNI }, s.set.VNIs.Put,
				func(v maps.VNI) (bool, error) { return s.set.VNIs.Delete(v.VNI) })
			s.arrive(s.wrapped(n, p)).unchanged()
		}),
		in("receiver_shaped-queued", func(s *scenario, _ family, n tunnel, p packet) {
			s.shape("a")
			s.arrive(s.wrapped(n, p)).queued("a", p)
		}),
		in("odd_frames-whole_path", func(s *scenario, f family, n tunnel, p packet) {
			other := otherThan(n)
			s.arrive(s.wrapped(other, p)).dropped("tunnel_mac")
			s.arrive(s.wrapped(n, p.with(func(q *packet) { q.smac[5] ^= 0x40 }))).dropped("tunnel_mac")
			s.arrive(s.wrapped(n, p.with(func(q *packet) { q.dmac[5] ^= 0x40 }))).dropped("no_member")
			s.arrive(s.wrapped(n, p).with(func(w *wrap) { w.vni = secretVNI })).dropped("clear_text")
			s.arrive(s.wrapped(n, p).with(func(w *wrap) { w.ecn = 3 })).dropped("tunnel_ecn")
			s.arrive(s.wrapped(n, p)).peer("a", p)
		}),
	)
}
