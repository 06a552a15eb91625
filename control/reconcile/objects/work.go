// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
)

// Work is the objects that a pass works on, by ID, and what becomes of their entries and flows.
type Work struct {
	Networks  map[string]*Network
	Sandboxes map[string]*Sandbox // to be configured in their namespaces
	Endpoints map[string]*Endpoint
	Publishes map[uint32]*Publish
	Services  map[string]*Service

	NetworksTouched bool
	// What the pass removes.
	RemovedNetworks  []*Network
	RemovedSandboxes []*Sandbox
	RemovedEndpoints []*Endpoint
	// Objects that are new in this snapshot; a missing namespace is then the caller's error.
	Fresh map[string]bool

	Old, Put entries.Set   // the objects' entries before and after
	Flows    tables.Filter // flows of what no longer exists

	// Networks, by ID, and services, on which the entries of all their members and backends depend. Which these
	// are is found when the entries are computed: until then other passes create and remove some.
	network map[string]bool
	service []*model.Service
	program []string // sandboxes whose program began or ended, which may be gateways of others

	finished []*Endpoint

	o *Objects
	s *desired.Snapshot
}

// NewWork returns work towards a snapshot.
func (o *Objects) NewWork(s *desired.Snapshot) *Work {
	return &Work{
		Networks: make(map[string]*Network), Sandboxes: make(map[string]*Sandbox),
		Endpoints: make(map[string]*Endpoint), Publishes: make(map[uint32]*Publish),
		Services: make(map[string]*Service), Fresh: make(map[string]bool), network: make(map[string]bool), o: o, s: s,
	}
}

// TouchNetwork adds a network to the pass, and the entries of its endpoints, which depend on it.
func (w *Work) TouchNetwork(n *Network) {
	w.Networks[n.ID], w.network[n.ID] = n, true
	w.NetworksTouched = true
}

// known adds to a set those of the endpoints that are known and not being removed.
func (w *Work) known(eps iter.Seq[*model.Endpoint], to map[string]*Endpoint) {
	for ep := range eps {
		if e := w.o.Endpoints[ep.ID]; e != nil && e.Want != nil {
			to[ep.ID] = e
		}
	}
}

// TouchSandbox adds a sandbox's endpoints to the pass.
func (w *Work) TouchSandbox(id string) { w.known(w.s.EndpointsOf(id), w.Endpoints) }

// TouchAll adds all that exists of a sandbox or of a network to the pass, or should, and what is left of what was removed.
func (w *Work) TouchAll(id string) {
	switch n := w.o.Networks[id]; {
	case n == nil:
	case n.Want == nil:
		w.RemovedNetworks = append(w.RemovedNetworks, n)
	default:
		w.TouchNetwork(n)
	}
	switch b := w.o.Sandboxes[id]; {
	case b == nil:
	case w.s.Sandbox(id) == nil:
		w.RemovedSandboxes = append(w.RemovedSandboxes, b)
	default:
		w.Sandboxes[id] = b
		w.TouchSandbox(id)
	}
	for _, e := range w.o.Endpoints {
		if e.Want == nil && e.Last.SandboxID == id {
			w.RemovedEndpoints = append(w.RemovedEndpoints, e)
		}
	}
}

// SortedEndpoints returns the pass's endpoints in order of attachment, in which the devices of a
// sandbox are created.
func (w *Work) SortedEndpoints() []*Endpoint {
	return slices.SortedFunc(maps.Values(w.Endpoints), func(a, b *Endpoint) int {
		if a.Want.SandboxID == b.Want.SandboxID && a.Want.Order != b.Want.Order {
			return a.Want.Order - b.Want.Order
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// Collect computes the table entries of the pass's objects, and of those that depend on them, from a snapshot.
// It records the previous ones.
func (w *Work) Collect(s *desired.Snapshot) {
	w.s = s
	endpoints := maps.Clone(w.Endpoints)
	for id := range w.network {
		n := w.o.Networks[id]
		if n == nil || n.Want == nil {
			continue
		}
		var now entries.Set
		if n.carried() {
			now = entries.OfNetwork(n.Want, w.hostPort(n))
		}
		w.replace(&n.Entries, now)
		w.touchServices(w.s.ServicesOf(id))
		w.known(w.s.Members(id), endpoints)
	}
	for _, id := range w.program {
		w.known(w.s.EndpointsOf(id), endpoints)
	}
	for _, svc := range w.service {
		w.known(w.s.Backends(svc), endpoints)
	}
	for _, e := range endpoints {
		var now entries.Set
		if n := w.o.Networks[e.Want.NetworkID]; e.Ends.Host != 0 && n != nil && n.carried() {
			e.Published = len(w.o.serving[e.ID]) > 0
			e.Pooled = desired.First(w.s.ServicesOfEndpoint(e.Want)) != nil
			sb := s.Sandbox(e.Want.SandboxID)
			now = entries.OfEndpoint(e.Want, n.Want, w.hostPort(n), e.Ends.Host, entries.Roles{
				Published: e.Published, Pooled: e.Pooled, Router: n.Want.IsRouter(sb), Serves: sb.Serves(),
			})
		}
		w.replace(&e.Entries, now)
		for id, b := range w.o.serving[e.ID] {
			w.Publishes[id] = b
		}
		w.touchServices(w.s.ServicesOfEndpoint(e.Want))
	}
	w.collectServices()
	for id, b := range w.Publishes {
		var now []entries.Run
		if e := w.o.Endpoints[b.Want.EndpointID]; e != nil && e.Want != nil && e.Ends.Host != 0 {
			if n := w.o.Networks[e.Want.NetworkID]; n != nil && n.carried() {
				now = entries.OfPublish(b.Want, e.Want, n.Want, e.Ends.Host)
			}
		}
		if len(b.Runs) > 0 && !slices.Equal(b.Runs, now) {
			w.Flows.Publish(id)
		}
		w.Old.AddRuns(b.Runs)
		w.Put.AddRuns(now)
		b.Runs = now
	}
	w.collectSandboxes(endpoints)
	for _, e := range w.RemovedEndpoints {
		w.replace(&e.Entries, entries.Set{})
	}
	for _, n := range w.RemovedNetworks {
		w.replace(&n.Entries, entries.Set{})
	}
}

// collectSandboxes computes the entries of the sandboxes of endpoints, and of those that lost one.
func (w *Work) collectSandboxes(endpoints map[string]*Endpoint) {
	ids := make(map[string]bool)
	for _, e := range endpoints {
		ids[e.Want.SandboxID] = true
	}
	for _, e := range w.RemovedEndpoints {
		ids[e.Last.SandboxID] = true
	}
	for id := range ids {
		if b := w.o.Sandboxes[id]; b != nil {
			w.replace(&b.Entries, entries.OfSandbox(b.Want, b.Cookie, w.networksOf(id)))
		}
	}
	for _, b := range w.RemovedSandboxes {
		w.replace(&b.Entries, entries.Set{})
	}
}

// networksOf returns the networks that a sandbox has devices in, in the order of attachment.
func (w *Work) networksOf(sandboxID string) (in []*model.Network) {
	es := w.o.MadeOf(w.s, sandboxID)
	slices.SortFunc(es, func(a, b *Endpoint) int { return a.Want.Order - b.Want.Order })
	for _, e := range es {
		if n := w.o.Networks[e.Want.NetworkID]; n != nil && n.Usable() {
			in = append(in, n.Want)
		}
	}
	return in
}

// hostPort returns what entries have of a network's host port.
func (w *Work) hostPort(n *Network) entries.HostPort {
	return entries.HostPort{Gateway: n.Ends.Peer, Port: n.Ends.Host, MAC: n.Ends.MAC, Services: w.s.HasServices(n.ID)}
}

func (w *Work) replace(have *entries.Set, now entries.Set) {
	w.Old.Add(*have)
	w.Put.Add(now)
	*have = now
}
