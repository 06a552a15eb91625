// SPDX-License-Identifier: Apache-2.0

package check

import (
	"errors"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
	"github.com/fairlead-net/fairlead/loader"
)

// comparison is one check of the host's side: a pass over what differs.
type comparison struct {
	*pass.Pass
	h *Host
}

func (h *Host) begin(p *pass.Pass) *comparison { return &comparison{Pass: p, h: h} }

// mayWork reports whether a pass that keeps the lock may work on an object.
func (c *comparison) mayWork(id string) bool { return c.First || c.h.Turns.Free(id) }

// repair repairs what differs.
func (c *comparison) repair(how Thoroughness, attached []loader.Attachment) error {
	errs := []error{c.pins(how), c.sweep()}
	c.findDirty()
	c.Run()
	errs = append(errs, c.Errs...)
	if how >= Regular && c.h.Entries.Unsynced() {
		errs = append(errs, c.tables())
	}
	errs = append(errs, c.uplinks(), c.cgroup(), c.attachments(attached))
	return errors.Join(errs...)
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
		if !c.mayWork(e.Last.SandboxID) {
			for _, name := range e.Kind.Names(device.Spec{ID: id, Endpoint: e.Last, EngineManaged: true}) {
				wanted[name] = true
			}
		}
	}
	for id, n := range c.Objects.Networks {
		if !c.mayWork(id) {
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

// findDirty adds to the pass what needs a repair: what differs from the state that the pass read,
// and what an earlier pass failed on.
func (c *comparison) findDirty() {
	c.findNetworks()
	c.findEndpoints()
	for id, b := range c.Objects.Sandboxes {
		if !c.mayWork(id) {
			continue
		}
		if c.Snap.Sandbox(id) == nil {
			c.RemovedSandboxes = append(c.RemovedSandboxes, b)
		} else if b.Dirty {
			c.Leave(id, false)
		}
	}
}

func (c *comparison) findNetworks() {
	for id, n := range c.Objects.Networks {
		if !c.mayWork(id) {
			continue
		}
		if n.Want == nil {
			c.RemovedNetworks = append(c.RemovedNetworks, n)
			continue
		}
		f, ok := n.Kind.Check(c.Host, n.Spec(c.Snap), n.Ends)
		if n.Dirty || !ok || f.Ends() != n.Ends {
			c.TouchNetwork(n)
			continue
		}
		c.Devices.Networks.Found(id, f) // compared; no change if it matches
	}
}

func (c *comparison) findEndpoints() {
	for id, e := range c.Objects.Endpoints {
		if !c.mayWork(e.Last.SandboxID) {
			continue
		}
		if e.Want == nil {
			c.RemovedEndpoints = append(c.RemovedEndpoints, e)
			continue
		}
		f, ok := e.Kind.Check(c.Host, e.Spec(c.Snap, nil), e.Ends)
		if e.Dirty || !ok || f.Host.Index != e.Ends.Host {
			c.Endpoints[id] = e
			continue
		}
		e.Ends = f.Ends()
		c.Devices.Endpoints.Found(id, f)
		b := c.Objects.Sandboxes[e.Want.SandboxID]
		if b != nil && (f.Host.Index != 0 && !f.Host.Running || c.Objects.IsTracked(b, e)) {
			c.Leave(b.ID, false) // the other end is down or was moved, possibly by an engine
		}
	}
}

// tables makes the tables contain exactly the objects' entries.
func (c *comparison) tables() error {
	all := c.Objects.All()
	restored, err := c.h.Entries.Sync(&all)
	c.Count(report.Entry, restored)
	return err
}

// uplinks finds the uplinks and the host's addresses and updates their tables.
func (c *comparison) uplinks() error {
	restored, lost, err := c.h.Uplinks.Check(&c.Host.State, uplinks.Networks{All: c.Objects.WantedNetworks(), HostPorts: c.Objects.UsableNetworks(), Announced: c.Snap.Announced()})
	if !c.h.Turns.Reverting() { // or else a verb that failed may have left the difference
		c.Count(report.Entry, restored)
	}
	for _, a := range lost {
		c.Flows.Addr(a)
	}
	c.DropFlows()
	return err
}

// cgroup makes sure that the socket programs are attached.
func (c *comparison) cgroup() error {
	changed, err := c.h.dp.AttachCgroup()
	c.Count(report.Program, changed)
	return err
}

// attachments makes sure that every program is attached where it should be, and nowhere else.
func (c *comparison) attachments(have []loader.Attachment) error {
	wanted, busy := make(map[device.Place]bool), make(map[device.Place]bool)
	c.Objects.EachPlace(func(id string, at device.Place, isWanted bool) {
		if isWanted {
			wanted[at] = true
		}
		if !c.mayWork(id) {
			busy[at] = true // another pass attaches or detaches it in its order
		}
	})
	for _, at := range c.h.Uplinks.Places() {
		wanted[at] = true
	}
	restored, err := c.h.Programs.Check(have, wanted, busy, c.First)
	c.Count(report.Program, restored)
	return err
}
