// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
)

// TakeOver applies the first snapshot: it takes over the kernel state of an earlier daemon. The caller has the lock, and no
// other pass runs.
func (h *Host) TakeOver(ctx context.Context, s *desired.Snapshot) error {
	host, err := device.Read(h.NL)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	c := h.begin(h.Begin(s, host))
	c.First, c.Hold.Locked = true, true
	attached, err := h.dp.Attached()
	if err != nil {
		return err
	}
	h.Snap = s
	if err := c.sweep(); err != nil {
		h.Log.Error("cannot remove leftovers", "err", err)
	}
	for n := range s.Networks() {
		h.Traffic.Adopt(n.Index, n.ID)
	}
	c.Diff(&desired.Snapshot{})
	c.Prepare()
	errs := []error{c.tables(), c.uplinks()}
	// From the first program that is attached until Settle, new TCP connections are refused if the tables of
	// flows were replaced: nothing else is done meanwhile.
	c.Attach()
	errs = append(errs, c.attachments(ctx, attached), h.dp.Settle())
	c.Complete()
	if err := errors.Join(errs...); err != nil {
		// The next check tries again; the daemon can serve meanwhile.
		h.Log.Error("the datapath is incomplete", "err", err)
		h.Stats.Fail(err)
	}
	for _, err := range c.Errs {
		h.Log.Error("cannot restore", "err", err)
		h.Stats.Fail(err)
	}
	if len(c.Errs) == 0 && errors.Join(errs...) == nil {
		return h.commit()
	}
	return nil
}
