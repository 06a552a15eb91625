// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/namespaces"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// Endpoints creates, finishes and removes the devices of endpoints.
type Endpoints struct {
	*Former
	namespaces *namespaces.Step
	missing    map[string]bool         // endpoints of which a check deleted the device, for the next pass to create it
	found      map[string]device.Found // not configured yet, by endpoint
}

// NewEndpoints returns the step of a pass. missing is shared by all passes.
func NewEndpoints(f *Former, ns *namespaces.Step, missing map[string]bool) *Endpoints {
	return &Endpoints{Former: f, namespaces: ns, missing: missing, found: make(map[string]device.Found)}
}

// Found records the devices of an endpoint that are to be compared with what is wanted.
func (s *Endpoints) Found(id string, f device.Found) { s.found[id] = f }

// errPairGone means that an engine's pair of devices was deleted, by the end of the container's
// namespace or otherwise. The engine would not move a new one: it will remove the endpoint, or
// the container has to be restarted.
var errPairGone = errors.New("the pair of devices of an engine-managed sandbox was deleted")

// Create creates or adopts the devices of the pass's endpoints.
func (s *Endpoints) Create() {
	for _, e := range s.SortedEndpoints() {
		s.create(e)
	}
}

func (s *Endpoints) create(e *objects.Endpoint) {
	delete(s.missing, e.ID)
	f, err := s.adoptOrCreate(e)
	e.Dirty = err != nil
	b := s.Objects.Sandboxes[e.Want.SandboxID]
	if err == nil {
		s.found[e.ID] = f
		s.move(e, f.Ends())
		e.Finished, e.LastErr = f.Finished, ""
		if b != nil && (!s.First || !e.Finished || !f.Host.Running) {
			s.Sandboxes[b.ID] = b
		}
		return
	}
	s.move(e, device.Ends{})
	if errors.Is(err, errPairGone) {
		e.Dirty, e.LastErr = false, ""
		return
	}
	if errors.Is(err, rtnl.ErrNoNetNS) && s.MayVanish(e.ID) {
		if b != nil {
			s.Namespaces.NoteVanished(&b.Sandbox, err)
		}
		return
	}
	s.SetErr(&e.LastErr, "endpoint", e.ID, err)
}

// move records the current devices of an endpoint.
func (s *Endpoints) move(e *objects.Endpoint, now device.Ends) {
	if !e.Ends.Same(now) {
		s.replaced(e.Kind, e.Ends)
		e.Finished = false
	}
	e.Ends = now
}

// adoptOrCreate finds an endpoint's devices, or creates them. For an engine-managed endpoint only
// a verb creates them, since only then will the engine move the inner end.
func (s *Endpoints) adoptOrCreate(e *objects.Endpoint) (device.Found, error) {
	n := s.Objects.Networks[e.Want.NetworkID]
	b := s.Objects.Sandboxes[e.Want.SandboxID]
	if n == nil || !n.Usable() || b == nil || b.Want == nil {
		return device.Found{}, errors.New("its network or sandbox does not exist")
	}
	kind, spec, ends := e.Kind, e.Spec(s.Snap, n), e.Ends
	var f device.Found
	var ok bool
	var err error
	s.Outside(func() { f, ok, err = kind.Adopt(s.Host, spec, ends) })
	if ok || err != nil {
		return f, err
	}
	if objects.IsEngineManaged(s.Snap, e.Want) && (s.Repair || s.First) {
		return f, errPairGone
	}
	return s.createFor(e, spec, b)
}

// createFor creates the devices of an endpoint for its sandbox.
func (s *Endpoints) createFor(e *objects.Endpoint, spec device.Spec, b *objects.Sandbox) (f device.Found, err error) {
	if spec.EngineManaged {
		return s.createDevice(e, spec, "the host's namespace")
	}
	b.Cookie = 0 // the user may have replaced the namespace
	if _, err := s.namespaces.CreateOf(b); err != nil {
		return f, err
	}
	if spec.NetNS, err = s.namespaces.Open(b); err != nil {
		return f, err
	}
	defer spec.NetNS.Close()
	if kind, ok := e.Kind.(device.SandboxKind); ok {
		var found bool
		if s.Outside(func() { f, found, err = kind.Find(spec) }); found || err != nil {
			return f, err
		}
	}
	return s.createDevice(e, spec, b.Want.NetNS)
}

// createDevice creates the devices. where names the namespace of the inner end, for errors.
func (s *Endpoints) createDevice(e *objects.Endpoint, spec device.Spec, where string) (device.Found, error) {
	kind := e.Kind
	var f device.Found
	var err error
	s.Outside(func() { f, err = kind.Create(spec) })
	if errors.Is(err, rtnl.ErrExists) && len(s.RemovedEndpoints) > 0 {
		// An endpoint that this pass removes may still have the name.
		for _, old := range s.RemovedEndpoints {
			if err := s.removeOf(old); err != nil {
				return f, err
			}
		}
		s.Outside(func() { f, err = kind.Create(spec) })
	}
	if errors.Is(err, rtnl.ErrExists) {
		return f, &model.Refusal{Kind: model.ErrConflict, Text: fmt.Sprintf("interface %q already exists in %s (remove it, or choose another name)", e.Want.IfName, where)}
	}
	if err == nil {
		s.Count(report.Device, 1)
	}
	return f, err
}

// Configure configures the host ends of the devices that were created or found, and brings them up.
func (s *Endpoints) Configure() {
	for id, f := range s.found {
		e := s.Objects.Endpoints[id]
		n := s.Objects.Networks[e.Want.NetworkID]
		if e.Dirty || n == nil || n.Want == nil {
			continue
		}
		kind, spec := e.Kind, e.Spec(s.Snap, n)
		var ch configure.Changes
		var err error
		s.Outside(func() { ch, err = kind.Configure(s.Host, spec, f) })
		if e.Finished {
			s.CountChanges(ch)
		}
		if err == nil && !e.Finished && objects.IsEngineManaged(s.Snap, e.Want) {
			s.Finish(e)
		} else if err != nil {
			s.fail(e, err)
		}
	}
}

// Finish marks an endpoint as fully configured.
func (s *Endpoints) Finish(e *objects.Endpoint) {
	kind, ends := e.Kind, e.Ends
	var err error
	s.Outside(func() { err = kind.Finish(e.ID, ends) })
	if err != nil {
		s.fail(e, err)
		return
	}
	s.Work.Finish(e)
}

func (s *Endpoints) fail(e *objects.Endpoint, err error) {
	e.Dirty = true
	s.SetErr(&e.LastErr, "endpoint", e.ID, err)
}

// Recreate deletes what is left of the device that is missing in the sandbox, the host end of a pair. The next pass
// creates it again.
func (s *Endpoints) Recreate(members []*objects.Endpoint, alias string) error {
	for _, e := range members {
		if rtnl.SandboxAlias(e.ID) == alias {
			spec, ends := e.Spec(s.Snap, nil), e.Ends
			s.move(e, device.Ends{})
			e.Dirty, s.missing[e.ID] = true, true
			var err error
			s.Outside(func() { err = e.Kind.Remove(s.Host, spec, ends) })
			return err
		}
	}
	return nil
}

// Remove deletes the devices that are no longer wanted.
func (s *Endpoints) Remove() {
	for _, e := range s.RemovedEndpoints {
		delete(s.missing, e.ID)
		s.Flows.Device(e.Ends.Host)
		err := s.removeOf(e)
		s.SetErr(&e.LastErr, "endpoint", e.ID, err)
		if err == nil {
			delete(s.Objects.Endpoints, e.ID)
		}
	}
}

// removeOf deletes the devices of an endpoint. Those that have no end on the host are found in the sandbox's
// namespace, and do not exist if that does not.
func (s *Endpoints) removeOf(e *objects.Endpoint) error {
	spec := e.Spec(s.Snap, nil)
	if b := s.Objects.Sandboxes[e.Last.SandboxID]; b != nil && b.Want != nil && e.Ends.Host == 0 && e.Ends.Exist() {
		var err error
		spec.NetNS, err = s.namespaces.Open(b)
		if errors.Is(err, rtnl.ErrNoNetNS) {
			return nil
		}
		if err != nil {
			return err
		}
		defer spec.NetNS.Close()
	}
	return s.remove(e.Kind, spec, e.Ends)
}
