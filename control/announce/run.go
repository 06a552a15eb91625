// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/frames"
)

// look is the time between two looks at the host's devices and addresses.
const look = time.Second

// Announcer announces the addresses of services.
type Announcer struct {
	nl  *rtnl.Handle
	log *slog.Logger

	wake  chan struct{}
	heard chan heard
	sends map[key]*listener

	mu       sync.Mutex
	snapshot *desired.Snapshot
	states   map[netip.Addr]State
	taken    uint64
}

type heard struct {
	index uint32
	addr  netip.Addr
	mac   model.MAC
}

// key is a device and a family.
type key struct {
	index uint32
	f     model.Family
}

type listener struct {
	*frames.Resolver
	mac  model.MAC
	stop chan struct{}
	done chan struct{}
}

// New returns an Announcer that does nothing until Run.
func New(nl *rtnl.Handle, log *slog.Logger) *Announcer {
	return &Announcer{nl: nl, log: log, wake: make(chan struct{}, 1), heard: make(chan heard, 64), sends: map[key]*listener{}, snapshot: &desired.Snapshot{}}
}

// Update passes the desired state.
func (an *Announcer) Update(s *desired.Snapshot) {
	an.mu.Lock()
	an.snapshot = s
	an.mu.Unlock()
	select {
	case an.wake <- struct{}{}:
	default:
	}
}

// States returns what is known of each address that has a device here, and how often this host took one.
func (an *Announcer) States() (states map[netip.Addr]State, taken uint64) {
	an.mu.Lock()
	defer an.mu.Unlock()
	return maps.Clone(an.states), an.taken
}

// Run announces until ctx ends. What this host has then, it keeps: its programs go on without the daemon.
func (an *Announcer) Run(ctx context.Context) error {
	e := newElection(wire{an}, an.log)
	ticker := time.NewTicker(Tick)
	defer ticker.Stop()
	defer func() {
		for k := range an.sends {
			an.close(k)
		}
	}()
	var looked, ticked time.Time
	for {
		an.mu.Lock()
		wanted := an.snapshot.Announced()
		an.mu.Unlock()
		now := time.Now()
		if now.Sub(looked) >= look || len(wanted) > 0 && len(e.addrs) == 0 {
			looked = now
			if err := an.place(e, wanted); err != nil {
				an.log.Warn("cannot find the devices of announced addresses; trying again", "err", err)
			}
		}
		if now.Sub(ticked) >= Tick/2 { // a change of the state comes at any time
			ticked = now
			an.running(e)
			e.tick(now)
		}
		an.mu.Lock()
		an.states, an.taken = e.state(), e.taken
		an.mu.Unlock()
		tick := ticker.C
		if len(wanted) == 0 && len(e.addrs) == 0 {
			tick = nil
		}
	wait:
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick:
				break wait
			case <-an.wake:
				looked = time.Time{}
				break wait
			case h := <-an.heard:
				e.heard(h.index, h.addr, h.mac, time.Now())
			}
		}
	}
}

// place finds the device of each address. Addresses that an earlier daemon left are taken over, or removed.
func (an *Announcer) place(e *election, wanted []netip.Addr) error {
	addrs, err := an.nl.Addrs()
	if err != nil {
		return err
	}
	links, err := an.nl.Links()
	if err != nil {
		return err
	}
	places, here := Places(links, addrs, wanted), map[netip.Addr]bool{}
	for _, a := range addrs {
		if ip := a.Prefix.Addr(); a.Announced && places[ip].Index == a.IfIndex {
			here[ip] = true
		}
	}
	e.set(places, here)
	for a, s := range e.addrs {
		if s.here && !here[a] { // another program removed it
			s.here, s.missed = false, 0
		}
	}
	for k := range an.sends {
		used := false
		for a, s := range e.addrs {
			used = used || k == key{s.at.Index, model.FamilyOf(a)} && an.sends[k].mac == s.at.MAC
		}
		if !used {
			an.close(k)
		}
	}
	for a, s := range e.addrs {
		k := key{s.at.Index, model.FamilyOf(a)}
		if an.sends[k] != nil {
			continue
		}
		if err := an.open(k, s.at); err != nil {
			return err
		}
	}
	return an.nl.RemoveAnnounced(func(a rtnl.Addr) bool {
		return e.addrs[a.Prefix.Addr()] != nil && here[a.Prefix.Addr()] && e.addrs[a.Prefix.Addr()].here
	})
}

// Places returns the device of each address: that of the host, and not of Fairlead, in whose subnet the address
// is. Addresses that the host has by itself, and those in no subnet, have none.
func Places(links []rtnl.Link, addrs []rtnl.Addr, wanted []netip.Addr) map[netip.Addr]Place {
	byIndex := map[uint32]*rtnl.Link{}
	for i := range links {
		if l := &links[i]; !l.Ours() && !l.Loopback && l.Ethernet() {
			byIndex[l.Index] = l
		}
	}
	places := map[netip.Addr]Place{}
	for _, a := range wanted {
		own, bits := false, 0
		var at *rtnl.Link
		for _, has := range addrs {
			l := byIndex[has.IfIndex]
			own = own || has.Prefix.Addr() == a && !has.Announced
			if l != nil && !has.Announced && !has.Prefix.IsSingleIP() && has.Prefix.Contains(a) && has.Prefix.Bits() > bits {
				at, bits = l, has.Prefix.Bits()
			}
		}
		if own || at == nil {
			continue
		}
		p := Place{Index: at.Index, Name: at.Name, MAC: at.MAC, Running: at.Running && at.Up}
		for _, has := range addrs {
			if ip := has.Prefix.Addr(); has.IfIndex == at.Index && ip.Is6() && ip.IsLinkLocalUnicast() {
				p.LinkLocal = ip
			}
		}
		places[a] = p
	}
	return places
}

// running reads whether packets pass the devices.
func (an *Announcer) running(e *election) {
	is := map[uint32]bool{}
	for _, s := range e.addrs {
		up, known := is[s.at.Index]
		if !known {
			l, err := an.nl.Link(s.at.Index)
			up = err == nil && l.Running && l.Up
			is[s.at.Index] = up
		}
		s.at.Running = up
	}
}

func (an *Announcer) open(k key, at Place) error {
	r, err := frames.OpenResolver(an.nl, at.Index, at.MAC, at.LinkLocal, k.f)
	if err != nil {
		return err
	}
	l := &listener{r, at.MAC, make(chan struct{}), make(chan struct{})}
	an.sends[k] = l
	go func() {
		defer close(l.done)
		for {
			a, mac, ok := r.Receive()
			select {
			case <-l.stop:
				return
			default:
			}
			if ok {
				select {
				case an.heard <- heard{k.index, a, mac}:
				default: // the next one will do
				}
			}
		}
	}()
	return nil
}

func (an *Announcer) close(k key) {
	l := an.sends[k]
	delete(an.sends, k)
	close(l.stop)
	<-l.done
	l.Close()
}

// wire is the link of this host.
type wire struct{ an *Announcer }

var errNoSocket = errors.New("no socket on the device")

// Take implements [Wire].
func (w wire) Take(at Place, a netip.Addr) error { return w.an.nl.AddAnnounced(at.Index, a) }

// Drop implements [Wire].
func (w wire) Drop(at Place, a netip.Addr) error { return w.an.nl.DeleteAnnounced(at.Index, a) }

// Ask implements [Wire].
func (w wire) Ask(at Place, a netip.Addr, to model.MAC) error {
	if l := w.an.sends[key{at.Index, model.FamilyOf(a)}]; l != nil {
		return l.Ask(a, to)
	}
	return errNoSocket
}

// Tell implements [Wire].
func (w wire) Tell(at Place, a netip.Addr) error {
	if l := w.an.sends[key{at.Index, model.FamilyOf(a)}]; l != nil {
		return l.Tell(a)
	}
	return errNoSocket
}
