// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/programs"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/loader"
)

// attachments makes sure that every program is attached where it should be, and nowhere else. It attaches without the
// lock, in the turn of the objects whose programs are missing, and then in that of the host, since programs at uplinks
// come last.
func (c *comparison) attachments(ctx context.Context, have []loader.Attachment) error {
	owners := make(map[device.Place]string)
	wanted, busy := make(map[device.Place]bool), make(map[device.Place]bool)
	c.Objects.EachPlace(func(id string, at device.Place, isWanted bool) {
		owners[at] = id
		if isWanted {
			wanted[at] = true
		}
		if !c.mayWork(id) || c.later.all[id] {
			busy[at] = true // another pass attaches or detaches it in its order
		}
	})
	mayHost := c.mayWork(turns.OfHost)
	for _, at := range c.h.Uplinks.Places() {
		wanted[at] = true
		if !mayHost {
			busy[at] = true
		}
	}
	ofObjects, ofHost := c.h.Programs.Compare(have, wanted, busy, c.First).Split(func(at device.Place) bool { return owners[at] != "" })
	ids := make(map[string]bool)
	for _, at := range ofObjects.Places() {
		ids[owners[at]] = true
		c.h.Turns.Take(owners[at])
	}
	errs := []error{c.execute(ofObjects, slices.Collect(maps.Keys(ids)))}
	if !mayHost {
		return errors.Join(errs...)
	}
	if err := c.h.Turns.WaitFree(ctx, turns.OfHost); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, c.execute(ofHost, []string{turns.OfHost}))...)
}

// execute executes a plan in the turn of its objects, which was taken. The host's turn includes the programs of its sockets.
func (c *comparison) execute(p programs.Plan, turn []string) error {
	hold := c.h.Turns.Begin(turn...)
	hold.Locked = c.First
	defer hold.End()
	restored, sockets := 0, 0
	var err, socketsErr error
	hold.Outside(func() {
		restored, err = c.h.Programs.Execute(p)
		if slices.Contains(turn, turns.OfHost) {
			sockets, socketsErr = c.h.dp.AttachCgroup()
		}
	})
	c.Count(report.Program, restored+sockets)
	return errors.Join(err, socketsErr)
}
