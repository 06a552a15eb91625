// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"cmp"
	"iter"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
)

// touchServices adds those of the services to the pass that it knows: their entries have the
// devices and addresses of their backends.
func (w *Work) touchServices(services iter.Seq[*model.Service]) {
	for svc := range services {
		if s := w.o.Services[svc.ID]; s != nil {
			w.Services[svc.ID] = s
		}
	}
}

// touchServicesOf adds the services to the pass that a sandbox is a backend of.
func (w *Work) touchServicesOf(sandboxID string) {
	for ep := range w.s.EndpointsOf(sandboxID) {
		w.touchServices(w.s.ServicesOfEndpoint(ep))
	}
}

func (w *Work) diffServices(before *desired.Snapshot) {
	for c := range desired.DiffServices(before, w.s) {
		s := w.o.Services[c.ID]
		if s == nil {
			s = &Service{ID: c.ID}
			w.o.Services[c.ID] = s
		}
		s.Want = c.New
		w.Services[c.ID] = s
		if c.New == nil {
			w.Flows.Publish(c.Old.Number)
		}
		if c.Old != nil && c.New != nil {
			continue // a name does not change
		}
		svc := cmp.Or(c.New, c.Old)
		w.service = append(w.service, svc) // its backends begin or cease to be any
		// Whether a network that spans nodes has services concerns all its members here.
		if n := w.s.Network(svc.NetworkID); n != nil && n.Has().Shared && before.HasServices(n.ID) != w.s.HasServices(n.ID) {
			w.network[n.ID] = true
		}
	}
}

// Finish notes that the end of an endpoint in its sandbox is configured. CollectFinished makes it a backend.
func (w *Work) Finish(e *Endpoint) {
	e.Finished = true
	w.finished = append(w.finished, e)
}

// CollectFinished computes the entries of the services of the endpoints that the pass has finished, from a snapshot, and
// records the previous ones. It reports whether there are any.
func (w *Work) CollectFinished(s *desired.Snapshot) bool {
	w.s, w.Old, w.Put = s, entries.Set{}, entries.Set{}
	w.Services = make(map[string]*Service)
	for _, e := range w.finished {
		if e.Want != nil {
			w.touchServices(s.ServicesOfEndpoint(e.Want))
		}
	}
	w.finished = nil
	w.collectServices()
	return len(w.Services) > 0
}

// collectServices computes the entries of the pass's services.
func (w *Work) collectServices() {
	for id, s := range w.Services {
		var now entries.Set
		if s.Want == nil {
			delete(w.o.Services, id)
		} else if n := w.o.Networks[s.Want.NetworkID]; n != nil && n.carried() {
			now = entries.OfService(s.Want, n.Want, append(w.backends(s.Want), w.remoteBackends(s, n)...))
		}
		w.replace(&s.Entries, now)
	}
}

// backends returns the backends of a service on this host that get new flows: they have a device, which is configured,
// and a program, and are neither drained nor leaving.
func (w *Work) backends(svc *model.Service) (list []entries.Backend) {
	for ep := range w.s.Backends(svc) {
		if e := w.o.Endpoints[ep.ID]; e != nil && e.Want != nil && e.Ends.Host != 0 && e.Finished && !svc.IsDrained(ep.ID) && ep.Serves(w.s.Sandbox(ep.SandboxID)) {
			list = append(list, entries.Backend{ID: ep.ID, At: ep, Device: e.Ends.Host})
		}
	}
	return list
}

// remoteBackends returns the backends of a service on other nodes that get new flows, and ends the
// flows of those that exist no more.
func (w *Work) remoteBackends(s *Service, n *Network) (list []entries.Backend) {
	if w.o.Remote == nil || !n.Want.Has().Shared {
		return nil
	}
	now := map[netip.Addr]bool{}
	for _, b := range w.o.Remote(s.Want) {
		if w.s.Endpoint(b.ID) != nil {
			continue // it is on this host: what is known of other nodes may be older
		}
		for _, f := range model.Families {
			if a := b.Addr(f); a.IsValid() {
				now[a] = true
			}
		}
		if !b.Stopped && !b.Down && !s.Want.IsDrained(b.ID) {
			list = append(list, entries.Backend{ID: b.ID, At: b.Member, Device: entries.ViaNode(n.Want)})
		}
	}
	for a := range s.remote {
		if !now[a] {
			w.Flows.Member(entries.ViaNode(n.Want), a)
		}
	}
	s.remote = now
	return list
}

// TouchServices adds the services of a network to the pass: backends on other nodes changed.
func (w *Work) TouchServices(network string) { w.touchServices(w.s.ServicesOf(network)) }
