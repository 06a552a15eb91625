// SPDX-License-Identifier: Apache-2.0

package check

import (
	"errors"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
)

// comparison is one check of the host's side. It changes settings of devices, and tables. What has to be
// created, attached or removed for an object is left to a pass with its turn.
type comparison struct {
	*pass.Pass
	h     *Host
	later left
}

// left is what a check leaves until it has given up the lock: objects, to passes of their own, and flows, since all of them are
// read to find some.
type left struct {
	all      map[string]bool // if false, only in a sandbox's namespace
	networks map[string]bool // those that are networks, on whose devices those of sandboxes depend
	flows    tables.Filter
}

// order returns the objects in the order in which they are to be repaired.
func (l left) order() []string {
	ids := slices.Sorted(maps.Keys(l.networks))
	for _, id := range slices.Sorted(maps.Keys(l.all)) {
		if !l.networks[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

func (h *Host) begin(p *pass.Pass) *comparison {
	return &comparison{Pass: p, h: h, later: left{all: make(map[string]bool), networks: make(map[string]bool)}}
}

// mayWork reports whether a check may work on an object.
func (c *comparison) mayWork(id string) bool { return c.First || c.h.Turns.Free(id) }

// leave leaves a sandbox to a pass of its own: its namespace, and with all, all of it.
func (c *comparison) leave(id string, all bool) { c.later.all[id] = c.later.all[id] || all }

// repair repairs what differs, except for attachments.
func (c *comparison) repair(how Thoroughness) error {
	errs := []error{c.pins(how), c.sweep()}
	for id, n := range c.Objects.Networks {
		if c.mayWork(id) {
			c.network(n)
		}
	}
	for _, e := range c.Objects.Endpoints {
		if c.mayWork(e.Last.SandboxID) {
			c.endpoint(e)
		}
	}
	for id, b := range c.Objects.Sandboxes {
		if c.mayWork(id) {
			c.sandbox(b)
		}
	}
	c.Devices.Networks.Configure()
	c.Devices.Endpoints.Configure()
	errs = append(errs, c.Errs...)
	if how >= Regular && c.h.Entries.Unsynced() {
		errs = append(errs, c.tables())
	}
	return errors.Join(append(errs, c.uplinks())...)
}

// pins restores the pins, before programs are attached.
func (c *comparison) pins(how Thoroughness) error {
	if how < Regular {
		return nil
	}
	restored, err := c.h.dp.RestorePins()
	c.Count(report.Program, restored)
	return err
}

// sweep removes Fairlead's devices that belong to no object, and in the first pass the namespaces
// too. It runs first, since their peers may have names that are needed.
func (c *comparison) sweep() error {
	wanted := c.Objects.Names(c.Snap)
	for id, e := range c.Objects.Endpoints { // devices that another pass removes in its order
		if e.Want == nil || !c.mayWork(e.Last.SandboxID) {
			for _, name := range e.Kind.Names(device.Spec{ID: id, Endpoint: e.Last, EngineManaged: true}) {
				wanted[name] = true
			}
		}
	}
	for id, n := range c.Objects.Networks {
		if n.Want == nil || !c.mayWork(id) {
			for _, name := range n.Kind.Names(device.Spec{ID: id, Network: n.Last}) {
				wanted[name] = true
			}
		}
	}
	errs := []error{c.Host.Sweep(wanted, c.h.Log)}
	if c.First && c.h.netnsDir != "" {
		errs = append(errs, c.Inside.Sweep(c.h.netnsDir))
	}
	return errors.Join(errs...)
}

// network compares a network's device with what is wanted. An earlier pass may have failed on it.
func (c *comparison) network(n *objects.Network) {
	f, ok := device.Found{}, false
	if n.Want != nil {
		f, ok = n.Kind.Check(c.Host, n.Spec(c.Snap), n.Ends)
	}
	if n.Dirty || !ok || f.Ends() != n.Ends {
		c.leave(n.ID, true)
		c.later.networks[n.ID] = true
		return
	}
	c.Devices.Networks.Found(n.ID, f) // compared; no change if it matches
}

// endpoint compares an endpoint's devices with what is wanted.
func (c *comparison) endpoint(e *objects.Endpoint) {
	f, ok := device.Found{}, false
	if e.Want != nil {
		f, ok = e.Kind.Check(c.Host, e.Spec(c.Snap, nil), e.Ends)
	}
	if e.Dirty || !ok || f.Host.Index != e.Ends.Host {
		c.leave(e.Last.SandboxID, true)
		return
	}
	e.Ends = f.Ends()
	c.Devices.Endpoints.Found(e.ID, f)
	b := c.Objects.Sandboxes[e.Want.SandboxID]
	if b != nil && (f.Host.Index != 0 && !f.Host.Running || c.Objects.IsTracked(b, e)) {
		c.leave(b.ID, false) // the other end is down or was moved, possibly by an engine
	}
}

// sandbox finds a sandbox on which an earlier pass failed.
func (c *comparison) sandbox(b *objects.Sandbox) {
	if removed := c.Snap.Sandbox(b.ID) == nil; removed || b.Dirty {
		c.leave(b.ID, removed)
	}
}

// tables makes the tables contain exactly the objects' entries.
func (c *comparison) tables() error {
	all := c.Objects.All()
	restored, err := c.h.Entries.Sync(&all)
	c.Count(report.Entry, restored)
	return err
}

// uplinks finds the uplinks and the host's addresses and updates their tables. Flows of addresses that the host lost are still to be
// removed. A daemon that was killed may have left
// MACs of members on the parent of a removed network.
func (c *comparison) uplinks() error {
	restored, lost, err := c.h.Uplinks.Check(&c.Host.State, uplinks.Networks{All: c.Objects.WantedNetworks(), HostPorts: c.Objects.UsableNetworks(), OnLink: c.Objects.OnLink(), Announced: c.Snap.Announced()})
	if !c.h.Turns.Reverting() { // or else a verb that failed may have left the difference
		c.Count(report.Entry, restored)
	}
	for _, a := range lost {
		c.Flows.Addr(a)
	}
	return errors.Join(err, c.h.Stations.Sweep(c.Objects.Parents()))
}
