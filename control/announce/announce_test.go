// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

var addr = netip.MustParseAddr("192.0.2.50")

// segment is a link with some hosts. Each is an election whose wire is the link.
type segment struct {
	*testing.T
	now   time.Time
	hosts []*host
}

type host struct {
	s     *segment
	mac   model.MAC
	e     *election
	has   bool // the kernel has the address, whatever its daemon knows
	dead  bool // no packet reaches it
	stops bool // its daemon does not run
	tells int
	full  bool // the kernel refuses the address
}

func newSegment(t *testing.T, n int) *segment {
	s := &segment{T: t, now: time.Unix(1_700_000_000, 0)}
	for i := range n {
		h := &host{s: s, mac: model.MAC{2, 0, 0, 0, 0, byte(i + 1)}}
		h.start()
		s.hosts = append(s.hosts, h)
	}
	return s
}

func (h *host) place() Place { return Place{Index: 7, Name: "eth1", MAC: h.mac, Running: !h.dead} }

func (h *host) start() {
	h.e = newElection(h, slog.New(slog.DiscardHandler))
	h.e.set(map[netip.Addr]Place{addr: h.place()}, map[netip.Addr]bool{addr: h.has})
	h.stops = false
}

func (h *host) Take(Place, netip.Addr) error {
	if h.full {
		return errors.New("no room")
	}
	h.has = true
	return nil
}

func (h *host) Drop(Place, netip.Addr) error { h.has = false; return nil }

func (h *host) Ask(_ Place, a netip.Addr, to model.MAC) error {
	for _, o := range h.s.hosts {
		if o != h && o.has && !o.dead && !h.dead && (to == model.MAC{} || to == o.mac) {
			h.e.heard(7, a, o.mac, h.s.now)
		}
	}
	return nil
}

func (h *host) Tell(_ Place, a netip.Addr) error {
	h.tells++
	for _, o := range h.s.hosts {
		if o != h && !o.dead && !h.dead && !o.stops {
			o.e.heard(7, a, h.mac, h.s.now)
		}
	}
	return nil
}

// run lets time pass, and returns the numbers of the hosts that have the address.
func (s *segment) run(d time.Duration) (has []int) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(Tick) {
		for _, h := range s.hosts {
			if !h.stops {
				h.e.set(map[netip.Addr]Place{addr: h.place()}, nil)
				h.e.tick(s.now)
			}
		}
	}
	for i, h := range s.hosts {
		if h.has && !h.dead {
			has = append(has, i+1)
		}
	}
	return has
}

func (s *segment) is(what string, d time.Duration, want ...int) {
	s.Helper()
	if got := s.run(d); !slices.Equal(got, want) {
		s.Errorf("%s: %v have the address after %v, want %v", what, got, d, want)
	}
}

func TestElection(t *testing.T) {
	s := newSegment(t, 3)
	s.is("at the start", time.Second, 1)
	if h := s.hosts[0]; h.tells < 2 {
		t.Errorf("the owner has notified %d times", h.tells)
	}
	for i, h := range s.hosts[1:] {
		if st := h.e.state()[addr]; st.Here || st.Owner != s.hosts[0].mac {
			t.Errorf("host %d knows %+v", i+2, st)
		}
	}
	s.is("nothing happens", time.Minute, 1)
	// The daemon alone ends: its kernel answers.
	s.hosts[0].stops = true
	s.is("without the daemon", time.Minute, 1)
	s.hosts[0].start()
	s.is("after its restart", time.Minute, 1)
	// The host dies.
	s.hosts[0].dead = true
	s.is("a host is dead", misses*Tick+Tick, 2)
	// It comes back, and gave the address up meanwhile: nothing moves.
	s.run(time.Second)
	s.hosts[0].dead = false
	s.is("it is back", time.Minute, 2)
	// The second dies with its daemon, and comes back with the address and without the daemon: both answer, and the
	// one that can gives way.
	s.hosts[1].dead, s.hosts[1].stops = true, true
	s.is("another host is dead", misses*Tick+Tick, 1)
	s.hosts[1].dead = false
	s.is("it answers, too", time.Minute, 1, 2)
	s.hosts[1].start()
	s.is("its daemon is back", 2*time.Second, 1)
}

// A host that could not see the other has the address as well: when they see each other, that with the lower MAC
// keeps it.
func TestTwoOwners(t *testing.T) {
	s := newSegment(t, 2)
	s.hosts[0].has, s.hosts[1].has = true, true
	for _, h := range s.hosts {
		h.start()
	}
	s.is("two have it", 2*time.Second, 1)
}

// A host that cannot take the address leaves it to others.
func TestCannotTake(t *testing.T) {
	s := newSegment(t, 2)
	s.hosts[0].full = true
	s.is("the first cannot", 2*time.Second, 2)
}

// What is not announced any more is given up.
func TestNotAnnounced(t *testing.T) {
	s := newSegment(t, 1)
	s.is("one host alone", time.Second, 1)
	s.hosts[0].e.set(nil, nil)
	if s.hosts[0].has || len(s.hosts[0].e.state()) > 0 {
		t.Error("the address is still here")
	}
}

func TestPlaces(t *testing.T) {
	p := netip.MustParsePrefix
	links := []rtnl.Link{
		{Index: 1, Name: "lo", Loopback: true, Type: 1, Up: true, Running: true},
		{Index: 2, Name: "eth0", Type: 1, Up: true, Running: true}, {Index: 3, Name: "eth1", Type: 1, Up: true},
		{Index: 4, Name: "fl1", Type: 1, Up: true, Running: true, Alias: rtnl.AliasPrefix + "x"},
	}
	addrs := []rtnl.Addr{
		{IfIndex: 1, Prefix: p("127.0.0.1/8")}, {IfIndex: 2, Prefix: p("192.0.2.1/24")}, {IfIndex: 3, Prefix: p("192.0.2.129/25")},
		{IfIndex: 2, Prefix: p("192.0.2.60/32"), Announced: true}, {IfIndex: 2, Prefix: p("2001:db8::1/64")}, {IfIndex: 2, Prefix: p("fe80::1/64")},
		{IfIndex: 4, Prefix: p("10.5.0.1/16")},
	}
	for text, want := range map[string]string{
		"192.0.2.50": "eth0 true", "192.0.2.60": "eth0 true", "192.0.2.200": "eth1 false", "2001:db8::50": "eth0 true",
		"192.0.2.1": "none", "10.5.0.9": "none", "127.0.0.2": "none", "198.51.100.1": "none",
	} {
		a, got := netip.MustParseAddr(text), "none"
		if at, ok := Places(links, addrs, []netip.Addr{a})[a]; ok {
			got = fmt.Sprint(at.Name, " ", at.Running)
			if at.LinkLocal.IsValid() != (at.Name == "eth0") {
				t.Errorf("%s: link-local address %v", text, at.LinkLocal)
			}
		}
		if got != want {
			t.Errorf("%s is at %s, want %s", text, got, want)
		}
	}
}
