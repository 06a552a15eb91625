// SPDX-License-Identifier: Apache-2.0

// Package check compares the host with the snapshot that was accepted last, and repairs what others broke, or has it
// repaired.
package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/repair"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/loader"
)

// maxHostReads bounds how often the host is read without the lock while it changes.
const maxHostReads = 2

// Thoroughness is the scope of a check of the host's side.
type Thoroughness int

const (
	Quick   Thoroughness = iota // devices, addresses, uplinks
	Regular                     // also attachments
)

// Datapath is what the loader provides for checks. It is implemented by *loader.Datapath.
type Datapath interface {
	// RestorePins restores what others removed from the bpffs, without which a program cannot be
	// attached, and returns how many pins were missing.
	RestorePins() (restored int, err error)
	// AttachCgroup makes sure that the socket programs are attached, and returns how many were
	// missing.
	AttachCgroup() (changed int, err error)
	// Attached lists the attachments, including those whose device was removed.
	Attached() ([]loader.Attachment, error)
	// Settle takes over what programs of an earlier version noted until now, after a pass that
	// attached what it could.
	Settle() error
	// Commit removes what an earlier version left behind, once everything is attached.
	Commit() error
}

// Host checks the host's side: devices, addresses, attachments, tables.
type Host struct {
	*pass.State
	dp        Datapath
	sandboxes *repair.Sandboxes
	netnsDir  string

	err       logonce.Error // of the last check
	committed bool
}

// NewHost returns the check of the host's side. Sandboxes in which something is wrong are left to the check of
// sandboxes. netnsDir is the directory of the namespaces that Fairlead owns, see reconcile.Config.
func NewHost(s *pass.State, dp Datapath, sandboxes *repair.Sandboxes, netnsDir string) *Host {
	return &Host{State: s, dp: dp, sandboxes: sandboxes, netnsDir: netnsDir}
}

// Check compares the host's side with the snapshot, and repairs it.
func (h *Host) Check(ctx context.Context, how Thoroughness) (report.Repairs, error) {
	repairs, err := h.once(ctx, how)
	if err == nil && h.Unfinished() {
		var more report.Repairs
		more, err = h.once(ctx, how)
		repairs.Add(more)
	}
	return repairs, err
}

// once reads before it takes the lock, so that verbs do not wait long. The list of
// attachments may be slightly outdated, but a redundant attach or detach changes nothing.
func (h *Host) once(ctx context.Context, how Thoroughness) (report.Repairs, error) {
	start := time.Now()
	if !h.Started() {
		return report.NewRepairs(), nil // no snapshot to compare with yet
	}
	var attached []loader.Attachment
	var err error
	if how >= Regular {
		if attached, err = h.dp.Attached(); err == nil && attached == nil {
			attached = []loader.Attachment{}
		}
	}
	repairs, later, err := h.compare(ctx, how, start, attached, err)
	err = errors.Join(err, h.Flows.Drop(&later.flows))
	incomplete := err
	for _, id := range later.order() {
		more, laterErr := h.sandboxes.Patiently(ctx, id, later.all[id], start)
		if repairs.Add(more); later.all[id] { // what is wrong in a namespace is logged
			err = errors.Join(err, laterErr)
		}
	}
	if ctx.Err() == nil {
		h.conclude(how, incomplete)
	}
	return repairs, err
}

// compare compares what was read without the lock, and the host's devices, with the snapshot, and repairs
// what it can without waiting for a sandbox. It returns the objects that are to be repaired.
func (h *Host) compare(ctx context.Context, how Thoroughness, start time.Time, attached []loader.Attachment, listErr error) (repairs report.Repairs, later left, err error) {
	host, err := h.readLocked()
	defer h.Mu.Unlock()
	if err = errors.Join(listErr, err); err != nil {
		return report.NewRepairs(), later, err
	}
	if err := ctx.Err(); err != nil {
		return report.NewRepairs(), later, err
	}
	c := h.begin(h.Begin(h.Snap, host))
	c.Repair, c.Hold.Locked = true, true
	if err = errors.Join(c.repair(how), c.attachments(ctx, attached)); err == nil {
		err = h.commit()
	}
	h.DoneRepairs(c.Repairs, start, err)
	c.later.flows = c.Flows
	return c.Repairs, c.later, err
}

// readLocked reads the host's state and returns with the lock held. It reads without the
// lock, and again if a pass had the lock meanwhile; after maxHostReads attempts it reads with the
// lock held. So what it read is true of all objects whose turn no pass has.
func (h *Host) readLocked() (device.State, error) {
	for range maxHostReads {
		h.Mu.Lock()
		before := h.Turns.Changes()
		h.Mu.Unlock()
		s, err := device.Read(h.NL)
		h.Mu.Lock()
		if err != nil || h.Turns.Changes() == before {
			return s, err
		}
		h.Mu.Unlock()
	}
	h.Mu.Lock()
	return device.Read(h.NL)
}

// conclude logs an error that keeps a comparison from completing, unless it logged it last time, and records what is wrong now.
func (h *Host) conclude(how Thoroughness, err error) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if h.err.IsNew(err) {
		h.Log.Error("check of the kernel's objects is incomplete", "err", err)
	}
	switch {
	case err != nil:
		h.Stats.Fail(err)
	case how >= Regular: // others do not look at everything
		h.Stats.Now(h.Objects.Fault())
	}
}

// commit notifies the loader, once, that everything is attached.
func (h *Host) commit() error {
	if h.committed {
		return nil
	}
	if err := h.dp.Commit(); err != nil {
		return fmt.Errorf("commit the datapath: %w", err)
	}
	h.committed = true
	return nil
}

// AttachUplinks finds the uplinks and attaches missing programs.
func (h *Host) AttachUplinks(ctx context.Context) error {
	if !h.Started() {
		return nil
	}
	h.Mu.Lock()
	err := h.Turns.WaitFree(ctx, turns.OfHost)
	h.Mu.Unlock()
	if err != nil {
		return err
	}
	host, err := h.readLocked()
	defer h.Mu.Unlock()
	c := h.begin(h.Begin(h.Snap, host, turns.OfHost))
	defer c.Hold.End()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	c.Repair = true
	err = c.uplinks()
	c.DropFlows()
	places := h.Uplinks.Places()
	c.Outside(func() { err = errors.Join(err, h.Programs.AttachNew(turns.OfHost, places)) })
	return err
}

// NoteVerified records the result of a part of a verification of the tables.
func (h *Host) NoteVerified(ctx context.Context, start time.Time, restored int, err error) {
	if restored == 0 && err == nil {
		return
	}
	h.Mu.Lock()
	defer h.Mu.Unlock()
	_ = h.Entries.NoteFailed(err)
	if ctx.Err() != nil {
		return
	}
	repairs := report.NewRepairs()
	repairs[report.Entry] = uint64(restored)
	h.DoneRepairs(repairs, start, err)
}
