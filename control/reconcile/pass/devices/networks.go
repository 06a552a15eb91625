// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// Networks creates, configures and removes the devices of networks.
type Networks struct {
	*Former
	traffic *tables.Traffic
	found   map[string]device.Found // not configured yet, by network
}

// NewNetworks returns the step of a pass. The traffic of a network is counted from when its device is created.
func NewNetworks(f *Former, traffic *tables.Traffic) *Networks {
	return &Networks{Former: f, traffic: traffic, found: make(map[string]device.Found)}
}

// Found records the device of a network that is to be compared with what is wanted.
func (n *Networks) Found(id string, f device.Found) { n.found[id] = f }

// Create creates or adopts the devices of the pass's networks.
func (n *Networks) Create() {
	for _, id := range slices.Sorted(maps.Keys(n.Networks)) {
		o := n.Networks[id]
		err := n.create(o)
		o.Dirty = err != nil
		n.SetErr(&o.LastErr, "network", id, err)
	}
}

func (n *Networks) create(o *objects.Network) error {
	kind, spec, ends := o.Kind, o.Spec(n.Snap), o.Ends
	var f device.Found
	var ok bool
	var err error
	n.Outside(func() { f, ok, err = kind.Adopt(n.Host, spec, ends) })
	if err != nil {
		return err
	}
	if !ok {
		if err := n.traffic.CountFor(o.Want.Index, o.ID); err != nil {
			return err
		}
		if n.Outside(func() { f, err = kind.Create(spec) }); f.Created {
			n.Count(report.Device, 1)
		}
		if err != nil {
			return err
		}
	}
	n.found[o.ID] = f
	if o.Ends == f.Ends() {
		return nil
	}
	n.replaced(o.Kind, o.Ends)
	o.Ends = f.Ends()
	n.TouchNetwork(o) // its endpoints' entries contain the host port
	return nil
}

// Configure configures the devices that were created or found, and brings them up.
func (n *Networks) Configure() {
	for id, f := range n.found {
		o := n.Objects.Networks[id]
		if o.Dirty || o.Want == nil {
			continue
		}
		err := n.configure(o, f)
		o.Dirty = err != nil
		n.SetErr(&o.LastErr, "network", id, err)
	}
}

func (n *Networks) configure(o *objects.Network, f device.Found) error {
	kind, spec, ends := o.Kind, o.Spec(n.Snap), o.Ends
	var ch configure.Changes
	var err error
	n.Outside(func() {
		if ch, err = kind.Configure(n.Host, spec, f); f.Created {
			err = errors.Join(err, kind.Finish(spec.ID, ends))
		}
	})
	if f.Created {
		return err
	}
	n.CountChanges(ch)
	return err
}

// Remove deletes the devices that are no longer wanted. latest is the snapshot that was accepted last.
func (n *Networks) Remove(latest *desired.Snapshot) {
	for _, o := range n.RemovedNetworks {
		n.Flows.Device(o.Ends.Host)
		err := n.remove(o.Kind, o.Spec(latest), o.Ends)
		n.SetErr(&o.LastErr, "network", o.ID, err)
		if err == nil {
			delete(n.Objects.Networks, o.ID)
		}
	}
}
