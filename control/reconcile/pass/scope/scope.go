// SPDX-License-Identifier: Apache-2.0

// Package scope holds what the steps of a pass share: what the pass works on, what it may do, and what it reports.
package scope

import (
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
)

// Scope is the extent of one pass. It is used with the lock that its Hold has.
type Scope struct {
	*objects.Work
	report.Report

	Snap       *desired.Snapshot // the pass's target
	Objects    *objects.Objects
	Namespaces *netns.Namespaces
	Host       *device.Host
	Hold       *turns.Hold

	First bool // the first pass after a start: it adopts, and counts nothing as repaired
}

// MayVanish reports whether a missing namespace is not the caller's error: a namespace that
// existed before this pass may disappear at any time.
func (s *Scope) MayVanish(id string) bool { return s.First || !s.Fresh[id] }

// Outside runs fn, which waits for the kernel, without the lock, see [turns.Hold.Outside].
func (s *Scope) Outside(fn func()) { s.Hold.Outside(fn) }

// InNamespace runs fn, which works in a sandbox's namespace, without the lock.
func (s *Scope) InNamespace(b *objects.Sandbox, fn func(*netns.Sandbox)) {
	seen := b.Sandbox
	s.Outside(func() { fn(&seen) })
	s.Namespaces.Learn(&b.Sandbox, &seen)
}
