// SPDX-License-Identifier: Apache-2.0

// Package announce decides which of several hosts has an address that no host owns by itself, and answers ARP
// and neighbour solicitations for it. The hosts need nothing but the link that they share: a host that does not
// have the address asks for it there, and takes it when nobody answers.
package announce

import (
	"bytes"
	"log/slog"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// Tick is the time between two queries of a host that does not have an address.
	Tick = 150 * time.Millisecond
	// misses is how many queries in a row without an answer mean that nobody has the address.
	misses = 3
	// release is how long the device of an address may be down before this host gives the address up: as
	// soon as another one has taken it.
	release = misses * Tick
	// check is the time between two queries of the host that has an address for another that has it, too.
	check = time.Second
)

// tells are the times after taking an address at which everybody is notified of it.
var tells = []time.Duration{0, 300 * time.Millisecond, time.Second, 3 * time.Second}

// Place is a device in whose subnet an address is.
type Place struct {
	Index     uint32
	Name      string
	MAC       model.MAC
	LinkLocal netip.Addr // zero: none
	Running   bool       // packets pass
}

// Wire is the link.
type Wire interface {
	// Take adds an address to a device.
	Take(at Place, a netip.Addr) error
	// Drop removes an address from a device.
	Drop(at Place, a netip.Addr) error
	// Ask queries for the owner of an address; to: zero for all.
	Ask(at Place, a netip.Addr, to model.MAC) error
	// Tell notifies everybody that this host has the address.
	Tell(at Place, a netip.Addr) error
}

// State is what is known of an address.
type State struct {
	Here bool // this host has it
	// Owner is the MAC of the host that has it; zero: unknown, or none.
	Owner model.MAC
	// Device is that of this host in whose subnet the address is; "": none.
	Device string
}

// election is that of all addresses on this host. It is not safe for concurrent use.
type election struct {
	wire  Wire
	log   *slog.Logger
	addrs map[netip.Addr]*address
	taken uint64 // addresses, since the start
}

type address struct {
	at     Place
	here   bool
	owner  model.MAC
	missed int         // queries without an answer
	tell   []time.Time // notifications that are due
	told   time.Time
	asked  time.Time // by the host that has it
	down   time.Time // since when the device is down; zero: it is not
	failed bool
}

func newElection(wire Wire, log *slog.Logger) *election {
	return &election{wire: wire, log: log, addrs: map[netip.Addr]*address{}}
}

// set makes these the addresses, with their places. here are those that this host has, left by an earlier
// daemon.
func (e *election) set(places map[netip.Addr]Place, here map[netip.Addr]bool) {
	for a, s := range e.addrs {
		at, wanted := places[a]
		if !wanted || at.Index != s.at.Index {
			e.drop(a, s, "it is not announced here any more")
			delete(e.addrs, a)
			continue
		}
		s.at = at
	}
	for a, at := range places {
		if e.addrs[a] == nil {
			e.addrs[a] = &address{at: at, here: here[a]}
		}
	}
}

// drop gives an address up.
func (e *election) drop(a netip.Addr, s *address, why string) {
	if !s.here {
		return
	}
	if err := e.wire.Drop(s.at, a); err != nil {
		e.log.Error("cannot release an address; two hosts may answer for it", "address", a, "device", s.at.Name, "err", err)
		return
	}
	e.log.Info("released address", "address", a, "device", s.at.Name, "why", why)
	s.here, s.missed, s.tell = false, 0, nil
}

// tick does what is due.
func (e *election) tick(now time.Time) {
	for a, s := range e.addrs {
		switch {
		case !s.at.Running:
			e.lost(a, s, now)
		case s.here:
			s.down = time.Time{}
			e.keep(a, s, now)
		default:
			s.down = time.Time{}
			e.seek(a, s, now)
		}
	}
}

// lost is an address whose device is down.
func (e *election) lost(a netip.Addr, s *address, now time.Time) {
	s.missed, s.owner = 0, model.MAC{}
	if s.down.IsZero() {
		s.down = now
	}
	if now.Sub(s.down) >= release {
		e.drop(a, s, "the device is down, so another host takes it")
	}
}

// keep is an address that this host has.
func (e *election) keep(a netip.Addr, s *address, now time.Time) {
	if now.Sub(s.asked) >= check {
		s.asked = now
		e.note(a, s, e.wire.Ask(s.at, a, model.MAC{}))
	}
	for len(s.tell) > 0 && !now.Before(s.tell[0]) {
		s.tell, s.told = s.tell[1:], now
		e.note(a, s, e.wire.Tell(s.at, a))
	}
}

// seek is an address that another host may have.
func (e *election) seek(a netip.Addr, s *address, now time.Time) {
	if s.missed < misses {
		to := s.owner
		if s.missed > 0 {
			to = model.MAC{} // another host may have taken it
		}
		s.missed++
		e.note(a, s, e.wire.Ask(s.at, a, to))
		return
	}
	err := e.wire.Take(s.at, a)
	e.note(a, s, err)
	if err != nil {
		s.missed = 0
		return
	}
	e.taken++
	e.log.Info("took address: no host answers for it", "address", a, "device", s.at.Name)
	s.here, s.owner, s.asked, s.tell = true, model.MAC{}, now, nil
	for _, after := range tells {
		s.tell = append(s.tell, now.Add(after))
	}
	e.keep(a, s, now)
}

// heard notes that a host says to have an address. Of two that have it, that with the lower MAC keeps it.
func (e *election) heard(index uint32, a netip.Addr, mac model.MAC, now time.Time) {
	s := e.addrs[a]
	if s == nil || s.at.Index != index || mac == s.at.MAC || mac == (model.MAC{}) {
		return
	}
	switch {
	case !s.here:
	case bytes.Compare(mac[:], s.at.MAC[:]) < 0:
		e.drop(a, s, "another host has it, too")
	default:
		if now.Sub(s.told) >= check {
			s.told = now
			e.note(a, s, e.wire.Tell(s.at, a))
		}
		return
	}
	s.owner, s.missed = mac, 0
}

// note logs the first of several errors.
func (e *election) note(a netip.Addr, s *address, err error) {
	if err != nil && !s.failed {
		e.log.Warn("cannot announce an address; trying again", "address", a, "device", s.at.Name, "err", err)
	}
	s.failed = err != nil
}

// state returns what is known of each address.
func (e *election) state() map[netip.Addr]State {
	all := make(map[netip.Addr]State, len(e.addrs))
	for a, s := range e.addrs {
		st := State{Here: s.here, Owner: s.owner, Device: s.at.Name}
		if s.here {
			st.Owner = s.at.MAC
		}
		all[a] = st
	}
	return all
}
