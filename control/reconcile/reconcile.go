// SPDX-License-Identifier: Apache-2.0

// Package reconcile applies a Snapshot to the kernel. It is the only writer of devices,
// addresses, control-owned tables and attachments. It applies the difference to what it applied
// before, reads everything back at the start, and repairs what others break.
//
// It can be interrupted at any point. A device is marked as Fairlead's when it is created and as
// finished by its alias; the next pass removes devices that are unfinished or no longer wanted.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/logonce"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/programs"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
)

// Datapath is what the loader provides. It is implemented by *loader.Datapath.
type Datapath interface {
	programs.Datapath
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

// Config configures a Reconciler.
type Config struct {
	// NetNSDir is the directory of the namespaces that Fairlead owns. At the start, namespaces in
	// it that do not belong to a sandbox are removed. If it is empty, none are.
	NetNSDir string
	// Uplinks pins the uplinks by name. If it is empty, they are found from addresses and routes.
	Uplinks []string
	// Observe, if not nil, is called after each operation, "apply" or "resync", with its duration
	// and result.
	Observe func(operation string, took time.Duration, err error)
	// Repaired, if not nil, is called after a repair of what others changed.
	Repaired func(kind string, count int)
	// Log receives repairs and failures. Nil discards them.
	Log *slog.Logger
}

// Reconciler keeps the kernel in the state of the last snapshot. Its methods may be called
// concurrently. At most one pass at a time works on a sandbox or on a network.
type Reconciler struct {
	cfg Config
	dp  Datapath
	nl  *rtnl.Handle
	log *slog.Logger

	objects    *objects.Objects
	traffic    tables.TrafficTable
	namespaces *netns.Namespaces
	programs   *programs.Attachments
	tables     *tables.Tables
	flows      *tables.Flows
	uplinks    *uplinks.Uplinks

	mu        sync.Mutex
	turns     *turns.Turns
	snap      *desired.Snapshot // accepted last; nil before the first
	numbers   map[uint32]string // network by the number under which its traffic is counted
	changes   uint64            // how often a pass began, or took the lock again
	missing   map[string]bool   // endpoints of which a check deleted the device, for the next pass to create it
	checkErr  logonce.Error     // of the last host check
	committed bool
	cursor    string        // sandbox that was checked last
	promote   chan struct{} // has a token if some attachments are unpromoted
	lastApply time.Time     // when it ended

	remote remoteChanges

	stats report.Statistics
}

// New returns a Reconciler. It does nothing until the first Apply.
func New(cfg Config, dp Datapath, t tables.Set, nl *rtnl.Handle) *Reconciler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Repaired == nil {
		cfg.Repaired = func(string, int) {}
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration, error) {}
	}
	r := &Reconciler{
		cfg: cfg, dp: dp, nl: nl, log: cfg.Log,
		objects:    objects.New(device.NewKinds(nl, cfg.Log)),
		namespaces: netns.New(nl, cfg.Log),
		programs:   programs.New(dp, cfg.Log),
		tables:     tables.New(t),
		flows:      tables.NewFlows(t.Flows),
		uplinks:    uplinks.New(nl, cfg.Log, uplinks.Tables{Uplinks: t.Uplinks, HostAddrs: t.HostAddrs, HostNets: t.HostNets}, cfg.Uplinks),
		traffic:    t.Traffic,
		promote:    make(chan struct{}, 1),
		numbers:    make(map[uint32]string),
		missing:    make(map[string]bool),
		remote:     remoteChanges{wake: make(chan struct{}, 1), networks: make(map[string]bool)},
		stats:      report.NewStatistics(),
	}
	r.turns = turns.New(&r.mu)
	return r
}

// Apply applies a snapshot and returns when the kernel has it. The error is about what changed
// since the last snapshot; older faults and leftovers are left to Resync. After an error the
// kernel may have half of the change: applying another snapshot, for example the previous one,
// cleans up.
//
// The first Apply reads everything back and adopts what is correct. It fails only if that is
// impossible; objects that cannot be restored are logged and retried by Resync.
func (r *Reconciler) Apply(ctx context.Context, s *desired.Snapshot) error {
	return r.Accept(context.WithoutCancel(ctx), s)()
}

// Accept takes a snapshot over, without waiting for the kernel, and returns a function that applies its
// difference to the snapshot that was accepted before. The functions of several snapshots may run at the
// same time and in any order: one waits for another if both are about the same sandbox or network. If ctx can end, an
// error must be followed by a snapshot without the change: until that is accepted, no check works on what it was about.
func (r *Reconciler) Accept(ctx context.Context, s *desired.Snapshot) (apply func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.snap
	var ids []string
	if before != nil {
		r.snap = s
		ids = turns.Changed(before, s)
		r.turns.Queue(ids)
	}
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		start := time.Now()
		var err error
		if before == nil {
			err = r.first(ctx, s)
		} else {
			err = r.change(ctx, before, s, ids)
		}
		r.done("apply", start, err)
		r.lastApply = time.Now()
		r.wakePromoter()
		return err
	}
}

// first takes over the kernel state of an earlier daemon.
func (r *Reconciler) first(ctx context.Context, s *desired.Snapshot) error {
	state, err := device.Read(r.nl)
	if err != nil {
		return err
	}
	p, err := r.newPass(ctx, s, state)
	if err != nil {
		return err
	}
	p.first = true
	attached, err := r.dp.Attached()
	if err != nil {
		return err
	}
	r.snap = s
	if err := p.sweep(); err != nil {
		r.log.Error("cannot remove leftovers", "err", err)
	}
	for n := range s.Networks() {
		r.numbers[n.Index] = n.ID
	}
	p.Diff(&desired.Snapshot{})
	p.run()
	errs := []error{p.syncTables(), p.checkUplinks(), p.checkCgroup(), p.checkAttachments(attached), r.dp.Settle()}
	if err := errors.Join(errs...); err != nil {
		// The next resync retries; the daemon can serve meanwhile.
		r.log.Error("the datapath is incomplete", "err", err)
		r.stats.Fail(err)
	}
	for _, err := range p.Errs {
		r.log.Error("cannot restore", "err", err)
		r.stats.Fail(err)
	}
	if len(p.Errs) == 0 && errors.Join(errs...) == nil {
		return r.commit()
	}
	return nil
}

// change applies the difference between two snapshots, which is about the objects with these IDs.
func (r *Reconciler) change(ctx context.Context, before, s *desired.Snapshot, ids []string) error {
	if err := r.turns.Wait(ctx, ids); err != nil {
		return err
	}
	p, _ := r.newPass(context.WithoutCancel(ctx), s, device.State{}) // from here on the verb is not given up
	p.turn = ids
	defer p.end()
	p.Diff(before)
	p.run()
	if p.NetworksTouched {
		p.Fail(p.writeHostAddrs())
	}
	if len(p.Errs) > 0 && ctx.Done() != nil {
		r.turns.EndReverted(ids)
		p.turn = nil
	}
	return errors.Join(p.Errs...)
}

// commit notifies the loader, once, that everything is attached.
func (r *Reconciler) commit() error {
	if r.committed {
		return nil
	}
	if err := r.dp.Commit(); err != nil {
		return fmt.Errorf("commit the datapath: %w", err)
	}
	r.committed = true
	return nil
}

// done records the result and duration of an operation.
func (r *Reconciler) done(operation string, start time.Time, err error) {
	took := time.Since(start)
	r.stats.Note(operation, took, err)
	r.cfg.Observe(operation, took, err)
}

// promoteOne promotes one attachment, in the turn of the object that it belongs to. If a verb ran within promoteDelay or
// works on all of these objects, it promotes none and returns how long to wait.
func (r *Reconciler) promoteOne() (wait time.Duration, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.lastApply.Add(promoteDelay)); wait > 0 {
		return wait, true
	}
	at, owner, ok := r.programs.NextUnpromoted(r.turns.Free)
	switch {
	case !ok:
		return promoteDelay, r.programs.Unpromoted()
	case owner == "":
		r.programs.Promote(at)
	default:
		r.turns.Take(owner)
		r.mu.Unlock()
		r.programs.Promote(at)
		r.mu.Lock()
		r.turns.End([]string{owner})
	}
	return 0, r.programs.Unpromoted()
}

// wakePromoter wakes the loop if there is something to promote.
func (r *Reconciler) wakePromoter() {
	if r.programs.Unpromoted() {
		wake(r.promote)
	}
}
