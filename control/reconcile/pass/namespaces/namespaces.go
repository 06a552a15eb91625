// SPDX-License-Identifier: Apache-2.0

// Package namespaces is the part of a pass that works on the network namespaces of sandboxes.
package namespaces

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/scope"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// Step creates, configures and removes the namespaces of a pass.
type Step struct {
	*scope.Scope
	nl *rtnl.Handle
}

// New returns the step of a pass.
func New(s *scope.Scope, nl *rtnl.Handle) *Step { return &Step{Scope: s, nl: nl} }

// Create creates the owned namespaces that are missing.
func (s *Step) Create() {
	for id, b := range s.Sandboxes {
		made, err := s.CreateOf(b)
		b.Dirty = err != nil
		if errors.Is(err, rtnl.ErrNoNetNS) {
			s.Namespaces.NoteVanished(&b.Sandbox, err)
		} else {
			s.SetErr(&b.LastErr, "sandbox", id, err)
		}
		if s.First && !made && err == nil {
			// The namespace is as the last daemon left it; a periodic check inspects it.
			delete(s.Sandboxes, id)
		}
	}
}

// CreateOf creates an owned sandbox's namespace if it is missing.
func (s *Step) CreateOf(b *objects.Sandbox) (made bool, err error) {
	var endpoints []*objects.Endpoint
	for ep := range s.Snap.EndpointsOf(b.ID) {
		if e := s.Objects.Endpoints[ep.ID]; e != nil && e.Want != nil {
			endpoints = append(endpoints, e)
		}
	}
	hasDevice := func(e *objects.Endpoint) bool {
		_, ok := e.Kind.Check(s.Host, e.Spec(s.Snap, nil), e.Ends)
		return ok && e.Ends.Host != 0
	}
	s.InNamespace(b, func(b *netns.Sandbox) {
		made, err = s.Namespaces.Create(b, func() bool { return slices.ContainsFunc(endpoints, hasDevice) })
	})
	if made {
		s.Count(report.Namespace, 1)
	}
	return made, err
}

// Open opens a sandbox's namespace.
func (s *Step) Open(b *objects.Sandbox) (ns *rtnl.NetNS, err error) {
	s.InNamespace(b, func(b *netns.Sandbox) { ns, err = s.Namespaces.Open(b) })
	return ns, err
}

// Configure configures the devices of members in a sandbox's namespace.
func (s *Step) Configure(b *objects.Sandbox, members []*objects.Endpoint) error {
	var devs []configure.Device
	for _, e := range members {
		n := s.Objects.Networks[e.Want.NetworkID]
		if n == nil || n.Want == nil {
			continue
		}
		devs = append(devs, e.Kind.Inside(e.Spec(s.Snap, n), e.Ends, !e.Finished))
	}
	var keep []string
	for o := range s.Snap.SandboxesAt(b.Want.NetNS) {
		for ep := range s.Snap.EndpointsOf(o.ID) {
			keep = append(keep, rtnl.SandboxAlias(ep.ID))
		}
	}
	var ch configure.Changes
	var err error
	s.InNamespace(b, func(b *netns.Sandbox) { ch, err = s.Namespaces.Configure(b, devs, keep) })
	if !slices.ContainsFunc(members, func(e *objects.Endpoint) bool { return !e.Finished }) {
		s.CountChanges(ch)
	}
	return err
}

// Untrack exempts the devices of untracked networks in a sandbox's namespace from connection
// tracking. A device that an engine has not moved yet is exempted once it is up.
func (s *Step) Untrack(b *objects.Sandbox, members []*objects.Endpoint) error {
	var devices []uint32
	var outer rtnl.Link // a host end of an engine-managed sandbox
	for _, e := range members {
		n := s.Objects.Networks[e.Want.NetworkID]
		if n == nil || n.Want == nil || !n.Want.Untracked {
			continue
		}
		if b.Want.ManagedBy == model.ByEngine {
			l, err := s.nl.Link(e.Ends.Host)
			if errors.Is(err, rtnl.ErrNoDevice) || err == nil && !l.Running {
				continue
			}
			if err != nil {
				return err
			}
			e.Ends.Peer, outer = l.PeerIndex, l
		}
		devices = append(devices, e.Ends.Peer)
	}
	restored := false
	var err error
	s.InNamespace(b, func(b *netns.Sandbox) { restored, err = s.Namespaces.Untrack(b, devices, outer) })
	if restored {
		s.Count(report.Rule, 1)
	}
	return err
}

// Remove removes the namespaces that are no longer wanted.
func (s *Step) Remove() {
	for _, b := range s.RemovedSandboxes {
		var err error
		s.InNamespace(b, func(b *netns.Sandbox) { err = s.Namespaces.Remove(b) })
		s.SetErr(&b.LastErr, "sandbox", b.ID, err)
		if err == nil {
			delete(s.Objects.Sandboxes, b.ID)
		}
	}
}

// Sweep removes the namespaces in a directory that belong to no sandbox.
func (s *Step) Sweep(dir string) error {
	wanted := make(map[string]bool)
	for b := range s.Snap.Sandboxes() {
		wanted[filepath.Clean(b.NetNS)] = true
	}
	return s.Namespaces.Sweep(dir, wanted)
}
