// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"iter"

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
		// Its backends begin or cease to be any.
		for _, snapshot := range []*desired.Snapshot{before, w.s} {
			if svc := snapshot.Service(c.ID); svc != nil {
				w.touchEndpoints(w.s.Backends(svc))
			}
		}
	}
}

// collectServices computes the entries of the pass's services.
func (w *Work) collectServices() {
	for id, s := range w.Services {
		var now entries.Set
		if s.Want == nil {
			delete(w.o.Services, id)
		} else if n := w.o.Networks[s.Want.NetworkID]; n != nil && n.Usable() {
			now = entries.OfService(s.Want, n.Want, w.backends(s.Want))
		}
		w.replace(&s.Entries, now)
	}
}

// backends returns the backends of a service that get new flows: they have a device and a program,
// and are not drained.
func (w *Work) backends(svc *model.Service) (list []entries.Backend) {
	for ep := range w.s.Backends(svc) {
		if e := w.o.Endpoints[ep.ID]; e != nil && e.Want != nil && e.Ends.Host != 0 && !svc.IsDrained(ep.ID) && w.s.Sandbox(ep.SandboxID).Serves() {
			list = append(list, entries.Backend{Endpoint: ep, HostIf: e.Ends.Host})
		}
	}
	return list
}
