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
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/loop"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/reconcile/programs"
	"github.com/fairlead-net/fairlead/control/reconcile/remote"
	"github.com/fairlead-net/fairlead/control/reconcile/repair"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Datapath is what the loader provides. It is implemented by *loader.Datapath.
type Datapath interface {
	programs.Datapath
	check.Datapath
}

// Config configures a Reconciler.
type Config struct {
	// NetNSDir is the directory of the namespaces that Fairlead owns. At the start, namespaces in
	// it that do not belong to a sandbox are removed. If it is empty, none are.
	NetNSDir string
	// StationsDir is the directory of the records of the MACs that devices of the host accept for members.
	StationsDir string
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
	state     *pass.State
	host      *check.Host
	sandboxes *repair.Sandboxes
	promoter  *loop.Promoter
	remote    *remote.Changes
}

// New returns a Reconciler. It does nothing until the first Accept.
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
	s := pass.NewState(pass.Config{
		Datapath: dp, Tables: t, NL: nl, Log: cfg.Log, PinnedUplinks: cfg.Uplinks, StationsDir: cfg.StationsDir, Observe: cfg.Observe, Repaired: cfg.Repaired,
	})
	sandboxes := repair.NewSandboxes(s)
	return &Reconciler{
		state: s, sandboxes: sandboxes, host: check.NewHost(s, dp, sandboxes, cfg.NetNSDir), promoter: loop.NewPromoter(s), remote: remote.New(s),
	}
}

// Accept takes a snapshot over, without waiting for the kernel, and returns a function that applies its
// difference to the snapshot that was accepted before. The function returns when the kernel has it. The functions of
// several snapshots may run at the same time and in any order: one waits for another if both are about the same sandbox
// or network.
//
// An error is about what changed; older faults and leftovers are left to checks. After an error the
// kernel may have half of the change: applying another snapshot, for example the previous one, cleans up. If ctx can
// end, an error must be followed by a snapshot without the change: until that is accepted, no check works on what it was
// about.
//
// The first one reads everything back and adopts what is correct. It fails only if that is
// impossible; objects that cannot be restored are logged and retried by checks.
func (r *Reconciler) Accept(ctx context.Context, s *desired.Snapshot) (apply func() error) {
	st := r.state
	st.Mu.Lock()
	defer st.Mu.Unlock()
	before := st.Snap
	var ids []string
	if before != nil {
		st.Snap = s
		ids = turns.Changed(before, s)
		st.Turns.Queue(ids)
	}
	return func() error {
		st.Mu.Lock()
		defer st.Mu.Unlock()
		start := time.Now()
		var err error
		if before == nil {
			err = r.host.TakeOver(ctx, s)
		} else {
			err = change(ctx, st, before, s, ids)
		}
		st.Done("apply", start, err)
		r.promoter.LastVerb = time.Now()
		r.promoter.Wake()
		return err
	}
}

// change applies the difference between two snapshots, which is about the objects with these IDs.
func change(ctx context.Context, st *pass.State, before, s *desired.Snapshot, ids []string) error {
	if err := st.Turns.Wait(ctx, ids); err != nil {
		return err
	}
	p := st.Begin(s, device.State{}, ids...) // from here on the verb is not given up
	defer p.Hold.End()
	p.Diff(before)
	p.Run()
	p.WriteHostAddrs()
	if len(p.Errs) > 0 && ctx.Done() != nil {
		p.Hold.EndReverted()
	}
	return errors.Join(p.Errs...)
}

// Run keeps the kernel in the state of the last snapshot until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.remote.Run(ctx) })
	return loop.New(r.state, r.host, r.sandboxes, r.promoter).Run(ctx)
}

// RemoteBackend is a backend of a service on another node.
type RemoteBackend = objects.RemoteBackend

// SetRemote sets the source of the backends that services have on other nodes. What they are is not
// part of a snapshot: RemoteChanged says when it is another. applying is called before such a change is applied,
// and what it returns afterwards, unless that failed.
func (r *Reconciler) SetRemote(backends func(*model.Service) []RemoteBackend, applying func(networks map[string]bool) (applied func())) {
	r.remote.SetSource(backends, applying)
}

// RemoteChanged schedules the services of a network whose members on other nodes changed. It does not
// wait.
func (r *Reconciler) RemoteChanged(network string) { r.remote.Add(network) }

// NoteRepaired records repairs of one kind that were not the reconciler's.
func (r *Reconciler) NoteRepaired(kind string, n int) {
	r.state.Mu.Lock()
	defer r.state.Mu.Unlock()
	r.state.NoteRepairs(report.Repairs{kind: uint64(n)})
}

// AttachTunnel attaches the program of the device that encrypts, before the device is used.
func (r *Reconciler) AttachTunnel() error {
	defer r.promoter.Wake()
	return r.host.AttachUplinks(context.Background())
}
