// SPDX-License-Identifier: Apache-2.0

// Package desiredtest makes snapshots for tests.
package desiredtest

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// Plain is desired state as plain maps, which a test may change.
type Plain struct {
	Rev       uint64
	Networks  map[string]*model.Network
	Sandboxes map[string]*model.Sandbox
	Endpoints map[string]*model.Endpoint
	Publishes map[uint32]*model.Publish
	Pools     map[string]*model.AddressPool
	Services  map[string]*model.Service
}

// New returns an empty state.
func New() Plain {
	return Plain{
		Networks:  map[string]*model.Network{},
		Sandboxes: map[string]*model.Sandbox{},
		Endpoints: map[string]*model.Endpoint{},
		Publishes: map[uint32]*model.Publish{},
		Pools:     map[string]*model.AddressPool{},
		Services:  map[string]*model.Service{},
	}
}

// Of returns what a snapshot holds.
func Of(s *desired.Snapshot) Plain {
	p := New()
	p.Rev = s.Rev
	for n := range s.Networks() {
		p.Networks[n.ID] = n
	}
	for sb := range s.Sandboxes() {
		p.Sandboxes[sb.ID] = sb
	}
	for ep := range s.Endpoints() {
		p.Endpoints[ep.ID] = ep
	}
	for b := range s.Publishes() {
		p.Publishes[b.ID] = b
	}
	for pool := range s.Pools() {
		p.Pools[pool.ID] = pool
	}
	for svc := range s.Services() {
		p.Services[svc.ID] = svc
	}
	return p
}

// Check returns an error if an index of a snapshot differs from that of a fresh one with the same
// objects. That happens when an object is changed in place after it was put there.
func Check(s *desired.Snapshot) error {
	fresh := Of(s).Snapshot()
	for _, err := range []error{
		same("networks", s.Networks(), func(s *desired.Snapshot, n *model.Network) iter.Seq[*model.Network] {
			return s.NetworksNamed(n.Name)
		}, s, fresh),
		same("names of sandboxes", s.Sandboxes(), func(s *desired.Snapshot, sb *model.Sandbox) iter.Seq[*model.Sandbox] {
			return s.SandboxesNamed(sb.Name)
		}, s, fresh),
		same("modes of sandboxes", s.Sandboxes(), func(s *desired.Snapshot, sb *model.Sandbox) iter.Seq[*model.Sandbox] {
			return s.SandboxesInMode(sb.NetworkMode)
		}, s, fresh),
		same("namespaces of sandboxes", s.Sandboxes(), func(s *desired.Snapshot, sb *model.Sandbox) iter.Seq[*model.Sandbox] {
			return s.SandboxesAt(sb.NetNS)
		}, s, fresh),
		same("endpoints of sandboxes", s.Endpoints(), func(s *desired.Snapshot, ep *model.Endpoint) iter.Seq[*model.Endpoint] {
			return s.EndpointsOf(ep.SandboxID)
		}, s, fresh),
		same("members of networks", s.Endpoints(), func(s *desired.Snapshot, ep *model.Endpoint) iter.Seq[*model.Endpoint] {
			return s.Members(ep.NetworkID)
		}, s, fresh),
		same("hardware addresses", s.Endpoints(), func(s *desired.Snapshot, ep *model.Endpoint) iter.Seq[*model.Endpoint] {
			return s.MembersWithMAC(ep.NetworkID, ep.MAC)
		}, s, fresh),
		same("published ports", s.Endpoints(), func(s *desired.Snapshot, ep *model.Endpoint) iter.Seq[*model.Publish] {
			return s.PublishesOf(ep.ID)
		}, s, fresh),
		same("backends", s.Services(), func(s *desired.Snapshot, svc *model.Service) iter.Seq[*model.Endpoint] {
			return s.Backends(svc)
		}, s, fresh),
		same("services of endpoints", s.Endpoints(), func(s *desired.Snapshot, ep *model.Endpoint) iter.Seq[*model.Service] {
			return s.ServicesOfEndpoint(ep)
		}, s, fresh),
		same("services of networks", s.Networks(), func(s *desired.Snapshot, n *model.Network) iter.Seq[*model.Service] {
			return s.ServicesOf(n.ID)
		}, s, fresh),
	} {
		if err != nil {
			return err
		}
	}
	for ep := range s.Endpoints() {
		for _, a := range []netip.Addr{ep.IPv4.Addr(), ep.IPv6.Addr()} {
			if got, want := s.MemberWithAddr(ep.NetworkID, a), fresh.MemberWithAddr(ep.NetworkID, a); got != want {
				return fmt.Errorf("the index of addresses finds %v for %v, want %v", got, a, want)
			}
		}
	}
	return nil
}

// same compares what an index of two snapshots finds for each object.
func same[V, W any](what string, objects iter.Seq[*V], find func(*desired.Snapshot, *V) iter.Seq[*W], got, want *desired.Snapshot) error {
	for v := range objects {
		a, b := slices.Collect(find(got, v)), slices.Collect(find(want, v))
		if !slices.Equal(a, b) {
			return fmt.Errorf("the index of %s finds %v for %+v, want %v", what, a, v, b)
		}
	}
	return nil
}

// Clone returns a copy that the next change of p does not reach.
func (p Plain) Clone() Plain {
	return Plain{p.Rev, maps.Clone(p.Networks), maps.Clone(p.Sandboxes), maps.Clone(p.Endpoints), maps.Clone(p.Publishes), maps.Clone(p.Pools), maps.Clone(p.Services)}
}

// Snapshot returns the state as it is now.
func (p Plain) Snapshot() *desired.Snapshot {
	e := new(desired.Snapshot).Edit()
	e.Rev = p.Rev
	for id, n := range p.Networks {
		e.PutNetwork(id, n)
	}
	for id, sb := range p.Sandboxes {
		e.PutSandbox(id, sb)
	}
	for id, ep := range p.Endpoints {
		e.PutEndpoint(id, ep)
	}
	for id, b := range p.Publishes {
		e.PutPublish(id, b)
	}
	for id, pool := range p.Pools {
		e.PutPool(id, pool)
	}
	for id, svc := range p.Services {
		e.PutService(id, svc)
	}
	return e.Done()
}
