// SPDX-License-Identifier: Apache-2.0

// Package events keeps what changed lately, for clients that follow it: the differences of snapshots, and repairs.
package events

import (
	"context"
	"crypto/rand"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// kept is how many events are kept.
const kept = 1024

// Log is the last events. Its methods may be called concurrently.
type Log struct {
	run string // of the daemon: numbers begin again with each

	mu       sync.Mutex
	snapshot *desired.Snapshot // nil until the stored state is loaded, whose objects are not events
	events   []api.Event       // the last ones
	last     uint64            // number of the last one
	more     chan struct{}     // closed when there is another
}

// New returns an empty Log.
func New() *Log { return &Log{run: rand.Text(), more: make(chan struct{})} }

// Update notes what a snapshot changed.
func (l *Log) Update(s *desired.Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.snapshot
	if l.snapshot = s; before == nil {
		return
	}
	for c := range desired.DiffNetworks(before, s) {
		switch {
		case c.Old == nil:
			l.add("network", "create", c.ID, "name", c.New.Name, "type", c.New.Driver)
		case c.New == nil:
			l.add("network", "destroy", c.ID, "name", c.Old.Name, "type", c.Old.Driver)
		}
	}
	l.sandboxes(before, s, func(c desired.Change[string, model.Sandbox]) bool { return c.Old == nil }, "create")
	for c := range desired.DiffSandboxes(before, s) {
		if c.Old != nil && c.New != nil && c.Old.Name != c.New.Name {
			l.add("sandbox", "rename", c.ID, "name", c.New.Name, "oldName", c.Old.Name)
		}
	}
	for c := range desired.DiffEndpoints(before, s) {
		if was, is := sandboxOf(c.Old), sandboxOf(c.New); was != is {
			l.endpoint(before, c.Old, "disconnect")
			l.endpoint(s, c.New, "connect")
		}
	}
	for c := range desired.DiffPublishes(before, s) {
		switch {
		case c.Old == nil:
			l.publish(s, c.New, "publish")
		case c.New == nil:
			l.publish(before, c.Old, "unpublish")
		}
	}
	l.sandboxes(before, s, func(c desired.Change[string, model.Sandbox]) bool { return c.New == nil }, "destroy")
}

func (l *Log) sandboxes(before, s *desired.Snapshot, matches func(desired.Change[string, model.Sandbox]) bool, action string) {
	for c := range desired.DiffSandboxes(before, s) {
		if sb := c.New; matches(c) {
			if sb == nil {
				sb = c.Old
			}
			l.add("sandbox", action, c.ID, "name", sb.Name)
		}
	}
}

func sandboxOf(ep *model.Endpoint) string {
	if ep == nil {
		return ""
	}
	return ep.SandboxID
}

func (l *Log) endpoint(s *desired.Snapshot, ep *model.Endpoint, action string) {
	if sandboxOf(ep) == "" {
		return
	}
	if n := s.Network(ep.NetworkID); n != nil {
		l.add("network", action, n.ID, "container", ep.SandboxID, "name", n.Name, "sandbox", s.SandboxName(ep.SandboxID), "type", n.Driver)
	}
}

func (l *Log) publish(s *desired.Snapshot, p *model.Publish, action string) {
	ep := s.Endpoint(p.EndpointID)
	if ep == nil {
		return
	}
	attributes := []string{"count", strconv.Itoa(int(p.Count)), "name", s.SandboxName(ep.SandboxID), "port", strconv.Itoa(int(p.Port)) + "/" + p.Proto.String()}
	b, onHost := p.PortBinding, true
	if n := s.Network(ep.NetworkID); n != nil {
		b, onHost = n.OnHost(b)
	}
	if !b.HostIP.IsValid() {
		b.HostIP = netip.IPv4Unspecified()
	}
	if onHost { // else the port is one of the sandbox's own address
		attributes = append(attributes, "host", netip.AddrPortFrom(b.HostIP, b.HostPort).String())
	}
	if p.From != "" {
		attributes = append(attributes, "from", string(p.From))
	}
	l.add("sandbox", action, ep.SandboxID, attributes...)
}

// Repaired notes a repair of what other programs changed.
func (l *Log) Repaired(kind string, count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add("datapath", "repair", "", "count", strconv.Itoa(count), "kind", kind)
}

// add adds an event with attributes in pairs.
func (l *Log) add(kind, action, id string, attributes ...string) {
	l.last++
	e := api.Event{Number: l.last, Time: time.Now(), Type: kind, Action: action, Actor: api.EventActor{ID: id, Attributes: map[string]string{}}}
	for pair := range slices.Chunk(attributes, 2) {
		e.Actor.Attributes[pair[0]] = pair[1]
	}
	if l.events = append(l.events, e); len(l.events) > kept {
		l.events = slices.Delete(l.events, 0, len(l.events)-kept)
	}
	close(l.more)
	l.more = make(chan struct{})
}

// After returns the events after a number of a run, and waits for one until ctx ends. Of another run there are none:
// the client begins again with what it gets.
func (l *Log) After(ctx context.Context, run string, number uint64) api.Events {
	for {
		l.mu.Lock()
		out, more := api.Events{Run: l.run, Last: l.last, Events: []api.Event{}}, l.more
		for _, e := range l.events {
			if run == l.run && e.Number > number {
				out.Events = append(out.Events, e)
			}
		}
		l.mu.Unlock()
		if len(out.Events) > 0 || run != out.Run {
			return out
		}
		select {
		case <-more:
		case <-ctx.Done():
			return out
		}
	}
}
