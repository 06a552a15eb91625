// SPDX-License-Identifier: Apache-2.0

// Package devices is the part of a pass that works on the devices of networks and endpoints.
package devices

import (
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/pass/scope"
)

// Former are the devices that a pass removed, or found replaced. Nothing of them may be left.
type Former struct {
	*scope.Scope
	Places []device.Place // where their programs are attached
}

// NewFormer returns the former devices of a pass that begins.
func NewFormer(s *scope.Scope) *Former { return &Former{Scope: s} }

// replaced schedules the removal of flows and programs of a device that no longer exists.
func (f *Former) replaced(kind device.Kind, ends device.Ends) {
	f.Flows.Device(ends.Host)
	f.Places = append(f.Places, kind.Places(ends)...)
}

// remove deletes the devices of an object.
func (f *Former) remove(kind device.Kind, spec device.Spec, ends device.Ends) error {
	var err error
	if f.Outside(func() { err = kind.Remove(f.Host, spec, ends) }); err != nil {
		return err
	}
	f.Places = append(f.Places, kind.Places(ends)...)
	return nil
}
