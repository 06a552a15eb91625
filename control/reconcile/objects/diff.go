// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"maps"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
)

// Diff collects what the snapshot changes compared to before, the one that was applied last. The
// zero Snapshot stands for none.
func (w *Work) Diff(before *desired.Snapshot) {
	w.diffNetworks(before)
	w.diffSandboxes(before)
	w.diffEndpoints(before)
	w.diffPublishes(before)
	w.diffServices(before)
}

func (w *Work) diffNetworks(before *desired.Snapshot) {
	for c := range desired.DiffNetworks(before, w.s) {
		n := w.o.Networks[c.ID]
		switch {
		case !turns.OfNetwork(c):
			if n != nil && n.Want != nil && c.New != nil && n.Want.SameDevices(c.New) { // it is not of a later snapshot
				n.Want, n.Last = c.New, c.New
			}
		case c.New.HasHostPort():
			if n == nil {
				n = &Network{ID: c.ID}
				w.o.Networks[c.ID] = n
				w.Fresh[c.ID] = true
			}
			n.Want, n.Last, n.Kind = c.New, c.New, w.o.kinds.OfNetwork(c.New)
			w.TouchNetwork(n)
			w.known(w.s.Members(n.ID), w.Endpoints)
		case n != nil:
			n.Want = nil
			w.RemovedNetworks = append(w.RemovedNetworks, n)
			w.NetworksTouched = true
		}
	}
}

func (w *Work) diffSandboxes(before *desired.Snapshot) {
	for c := range desired.DiffSandboxes(before, w.s) {
		b := w.o.Sandboxes[c.ID]
		switch {
		case c.New == nil:
			if b != nil { // it keeps Want, which says what to remove
				w.RemovedSandboxes = append(w.RemovedSandboxes, b)
			}
			continue
		case !turns.OfSandbox(c):
			if b != nil && b.Want.NetNS == c.New.NetNS { // it is not of a later snapshot
				b.Want = c.New
			}
			if c.Old.Serves() != c.New.Serves() {
				w.touchServicesOf(c.ID)
				w.program = append(w.program, c.ID)
			}
			continue
		case b == nil:
			b = &Sandbox{Sandbox: netns.Sandbox{ID: c.ID}}
			w.o.Sandboxes[c.ID] = b
			w.Fresh[c.ID] = true
			w.Sandboxes[c.ID] = b
		case b.Want.NetNS != c.New.NetNS:
			w.Sandboxes[c.ID] = b
			w.TouchSandbox(c.ID)
		}
		b.Want = c.New
	}
}

func (w *Work) diffEndpoints(before *desired.Snapshot) {
	for c := range desired.DiffEndpoints(before, w.s) {
		if !turns.OfEndpoint(c) {
			continue
		}
		e := w.o.Endpoints[c.ID]
		w.touchRoutes(c)
		w.touchServices(w.s.ServicesOfEndpoint(c.Old))
		if c.New == nil || c.New.SandboxID == "" {
			if e != nil {
				e.Want = nil
				w.RemovedEndpoints = append(w.RemovedEndpoints, e)
				delete(w.Endpoints, c.ID)
			}
			continue
		}
		if n := w.s.Network(c.New.NetworkID); n == nil || n.Has().Endpoint == model.NoDevice {
			continue
		}
		if e == nil {
			e = &Endpoint{ID: c.ID}
			w.o.Endpoints[c.ID] = e
			w.Fresh[c.ID] = true
		}
		w.noteLost(e, c.New)
		e.Want, e.Last, e.Kind = c.New, c.New, w.o.kinds.OfEndpoint(w.s.Network(c.New.NetworkID))
		w.Endpoints[c.ID] = e
	}
}

// touchRoutes adds a network to the pass whose device has a route to each member, or accepts frames to them.
func (w *Work) touchRoutes(c desired.Change[string, model.Endpoint]) {
	for _, ep := range []*model.Endpoint{c.Old, c.New} {
		if ep == nil {
			continue
		}
		if n := w.o.Networks[ep.NetworkID]; n != nil && n.Want != nil && (n.Want.HostAccess || n.Want.OnLink()) {
			w.Networks[n.ID] = n
		}
	}
}

// noteLost schedules the removal of the flows of addresses that an endpoint no longer has.
func (w *Work) noteLost(e *Endpoint, want *model.Endpoint) {
	if e.Want == nil {
		return
	}
	for _, f := range model.Families {
		if a := e.Want.Addr(f); a.IsValid() && want.Addr(f) != a {
			w.Flows.Member(e.Ends.Host, a)
		}
	}
}

func (w *Work) diffPublishes(before *desired.Snapshot) {
	touched := make(map[string]bool) // endpoints
	for c := range desired.DiffPublishes(before, w.s) {
		b := w.o.Publishes[c.ID]
		if b != nil {
			touched[b.Want.EndpointID] = true
			w.o.unserve(b)
		}
		if c.New == nil {
			if b != nil {
				w.Flows.Publish(c.ID)
				w.Old.AddRuns(b.Runs)
				delete(w.o.Publishes, c.ID)
			}
			continue
		}
		if b == nil {
			b = &Publish{ID: c.ID}
			w.o.Publishes[c.ID] = b
		}
		b.Want = c.New
		w.o.serve(b)
		touched[c.New.EndpointID] = true
		w.Publishes[c.ID] = b
	}
	for id := range touched {
		e := w.o.Endpoints[id]
		if e == nil || e.Want == nil {
			continue
		}
		if published := len(w.o.serving[id]) > 0; e.Published != published {
			w.Endpoints[id] = e
		}
		// Several publishes that open the same port of a sandbox's own address share an entry.
		if n := w.s.Network(e.Want.NetworkID); n != nil && (n.Routed(model.V4) || n.Routed(model.V6)) {
			maps.Copy(w.Publishes, w.o.serving[id])
		}
	}
}
