// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
	"github.com/fairlead-net/fairlead/loader"
)

// maxHostReads bounds how often the host is read without the lock while it changes.
const maxHostReads = 2

// thoroughness is the scope of a check of the host's side.
type thoroughness int

const (
	quick   thoroughness = iota // devices, addresses, uplinks
	regular                     // also attachments
	full                        // also tables, which otherwise the loop verifies
)

// Resync reads everything back (devices, addresses, sysctls, attachments, tables, and the network
// namespaces of all sandboxes), repairs what differs from the last snapshot, and returns what it
// repaired.
func (r *Reconciler) Resync(ctx context.Context) (report.Repairs, error) {
	repairs, err := r.check(ctx, full)
	if err != nil {
		return repairs, err
	}
	inside, err := r.checkSandboxes(ctx, r.nextSandboxes(-1))
	repairs.Add(inside)
	if r.unfinished() {
		more, checkErr := r.check(ctx, full)
		repairs.Add(more)
		err = checkErr
	}
	return repairs, err
}

// unfinished reports whether a check left a device for the next pass to create.
func (r *Reconciler) unfinished() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.missing) > 0
}

// check compares the host's side with the snapshot, and repairs it.
func (r *Reconciler) check(ctx context.Context, how thoroughness) (report.Repairs, error) {
	repairs, err := r.checkOnce(ctx, how)
	if err == nil && r.unfinished() {
		var more report.Repairs
		more, err = r.checkOnce(ctx, how)
		repairs.Add(more)
	}
	return repairs, err
}

// checkOnce reads before it takes the lock, so that verbs do not wait long. The list of
// attachments may be slightly outdated, but a redundant attach or detach changes nothing.
func (r *Reconciler) checkOnce(ctx context.Context, how thoroughness) (report.Repairs, error) {
	start := time.Now()
	if !r.started() {
		return report.NewRepairs(), nil // no snapshot to compare with yet
	}
	var errs [2]error
	var attached []loader.Attachment
	restored := 0
	if how >= regular {
		if attached, errs[0] = r.dp.Attached(); errs[0] == nil && attached == nil {
			attached = []loader.Attachment{}
		}
	}
	if how == full {
		restored, errs[1] = r.tables.Verify()
	}
	repairs, later, err := r.checkRead(ctx, how, start, attached, restored, errs)
	for _, id := range slices.Sorted(maps.Keys(later)) {
		more, laterErr := r.repairPatiently(ctx, id, later[id], start)
		if repairs.Add(more); later[id] { // what is wrong in a namespace is logged
			err = errors.Join(err, laterErr)
		}
	}
	return repairs, err
}

// checkRead compares what was read without the lock, and the host's devices, with the snapshot, and repairs
// them. It returns the sandboxes that are to be repaired, with their devices if true.
func (r *Reconciler) checkRead(ctx context.Context, how thoroughness, start time.Time, attached []loader.Attachment, restored int, errs [2]error) (repairs report.Repairs, later map[string]bool, err error) {
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err = errors.Join(append(errs[:], err)...); err != nil {
		_ = r.tables.NoteFailed(errs[1])
		r.logCheckErr(err)
		return report.NewRepairs(), nil, err
	}
	p, err := r.newPass(ctx, r.snap, s)
	if err != nil {
		return report.NewRepairs(), nil, err
	}
	p.Repair, p.hostOnly = true, true
	p.Count(report.Entry, restored)
	err = p.checkHost(how, attached)
	if err == nil {
		err = r.commit()
	}
	r.logCheckErr(err)
	r.finish(p, "resync", start, err)
	return p.Repairs, p.later, err
}

// checkHost repairs what the pass found to differ.
func (p *pass) checkHost(how thoroughness, attached []loader.Attachment) error {
	errs := []error{p.restorePins(how), p.sweep()}
	p.findDirty()
	p.run()
	errs = append(errs, p.Errs...)
	if how >= regular && p.r.tables.Unsynced() {
		errs = append(errs, p.syncTables())
	}
	errs = append(errs, p.checkUplinks(), p.checkCgroup(), p.checkAttachments(attached))
	return errors.Join(errs...)
}

// restorePins restores the pins, before programs are attached.
func (p *pass) restorePins(how thoroughness) error {
	if how < regular {
		return nil
	}
	restored, err := p.r.dp.RestorePins()
	p.Count(report.Program, restored)
	return err
}

// syncTables makes the tables contain exactly the objects' entries.
func (p *pass) syncTables() error {
	all := p.r.objects.All()
	restored, err := p.r.tables.Sync(&all)
	p.Count(report.Entry, restored)
	return err
}

// checkAttachments makes sure that every program is attached where it should be, and nowhere
// else.
func (p *pass) checkAttachments(have []loader.Attachment) error {
	wanted, busy := make(map[device.Place]bool), make(map[device.Place]bool)
	p.r.objects.EachPlace(func(id string, at device.Place, isWanted bool) {
		if isWanted {
			wanted[at] = true
		}
		if !p.mayWork(id) {
			busy[at] = true // another pass attaches or detaches it in its order
		}
	})
	for _, at := range p.r.uplinks.Places() {
		wanted[at] = true
	}
	restored, err := p.r.programs.Check(have, wanted, busy, p.first)
	p.Count(report.Program, restored)
	return err
}

// started reports whether there was a first Apply.
func (r *Reconciler) started() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snap != nil
}

// readHostLocked reads the host's state and returns with the lock held. It reads without the
// lock, and again if a pass had the lock meanwhile; after maxHostReads attempts it reads with the
// lock held. So what it read is true of all objects whose turn no pass has.
func (r *Reconciler) readHostLocked() (device.State, error) {
	for range maxHostReads {
		r.mu.Lock()
		before := r.changes
		r.mu.Unlock()
		s, err := device.Read(r.nl)
		r.mu.Lock()
		if err != nil || r.changes == before {
			return s, err
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	return device.Read(r.nl)
}

// logCheckErr logs an error that keeps a check from completing, unless it logged it last time.
func (r *Reconciler) logCheckErr(err error) {
	if r.checkErr.IsNew(err) {
		r.log.Error("check of the kernel's objects is incomplete", "err", err)
	}
}

// finish records a pass that repairs.
func (r *Reconciler) finish(p *pass, operation string, start time.Time, err error) {
	vanished := 0
	for _, b := range r.objects.Sandboxes {
		if b.Vanished() {
			vanished++
		}
	}
	r.stats.Repaired(p.Repairs, vanished)
	for kind, n := range p.Repairs {
		if n > 0 {
			r.log.Warn("repaired what others broke", "kind", kind, "count", n)
			r.cfg.Repaired(string(kind), int(n))
		}
	}
	r.done(operation, start, err)
}

// findDirty adds to the pass what needs a repair: what differs from the state that the pass read,
// and what an earlier pass failed on.
func (p *pass) findDirty() {
	for id, n := range p.r.objects.Networks {
		if !p.mayWork(id) {
			continue
		}
		if n.Want == nil {
			p.RemovedNetworks = append(p.RemovedNetworks, n)
			continue
		}
		f, ok := n.Kind.Check(p.host, n.Spec(p.s), n.Ends)
		if n.Dirty || !ok || f.Ends() != n.Ends {
			p.TouchNetwork(n)
			continue
		}
		p.netDevices[id] = f // compared; no change if it matches
	}
	for id, e := range p.r.objects.Endpoints {
		if !p.mayWork(e.Last.SandboxID) {
			continue
		}
		if e.Want == nil {
			p.RemovedEndpoints = append(p.RemovedEndpoints, e)
			continue
		}
		f, ok := e.Kind.Check(p.host, e.Spec(p.s, nil), e.Ends)
		if e.Dirty || !ok || f.Host.Index != e.Ends.Host {
			p.Endpoints[id] = e
			continue
		}
		e.Ends = f.Ends()
		p.epDevices[id] = f
		b := p.r.objects.Sandboxes[e.Want.SandboxID]
		if b != nil && (f.Host.Index != 0 && !f.Host.Running || p.isTracked(b, e)) {
			p.leave(b.ID, false) // the other end is down or was moved, possibly by an engine
		}
	}
	for id, b := range p.r.objects.Sandboxes {
		if !p.mayWork(id) {
			continue
		}
		if p.s.Sandbox(id) == nil {
			p.RemovedSandboxes = append(p.RemovedSandboxes, b)
		} else if b.Dirty {
			p.leave(id, false)
		}
	}
}

// checkCgroup makes sure that the socket programs are attached.
func (p *pass) checkCgroup() error {
	changed, err := p.r.dp.AttachCgroup()
	p.Count(report.Program, changed)
	return err
}

// checkUplinks finds the uplinks and the host's addresses and updates their tables.
func (p *pass) checkUplinks() error {
	restored, lost, err := p.r.uplinks.Check(&p.host.State, uplinks.Networks{All: p.r.objects.WantedNetworks(), HostPorts: p.r.objects.UsableNetworks(), Announced: p.s.Announced()})
	if !p.r.turns.Reverting() { // or else a verb that failed may have left the difference
		p.Count(report.Entry, restored)
	}
	for _, a := range lost {
		p.Flows.Addr(a)
	}
	p.dropFlows()
	return err
}

// writeHostAddrs writes the table of the host's addresses after networks changed.
func (p *pass) writeHostAddrs() error {
	restored, err := p.r.uplinks.WriteAddrs(p.r.objects.UsableNetworks(), p.r.snap.Announced())
	p.Count(report.Entry, restored)
	return err
}

// AttachTunnel attaches the program of the device that encrypts, before the device is used.
func (r *Reconciler) AttachTunnel() error { return r.attachUplinks(context.Background()) }

// attachUplinks finds the uplinks and attaches missing programs.
func (r *Reconciler) attachUplinks(ctx context.Context) error {
	if !r.started() {
		return nil
	}
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	p, err := r.newPass(ctx, r.snap, s)
	if err != nil {
		return err
	}
	p.Repair = true
	err = errors.Join(p.checkUplinks(), r.programs.AttachNew(r.uplinks.Places()))
	r.wakePromoter()
	return err
}

// noteVerified records the result of a part of a verification.
func (r *Reconciler) noteVerified(ctx context.Context, start time.Time, restored int, err error) {
	if restored == 0 && err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.tables.NoteFailed(err)
	p, passErr := r.newPass(ctx, r.snap, device.State{})
	if passErr != nil {
		return
	}
	p.Repair = true
	p.Count(report.Entry, restored)
	r.finish(p, "resync", start, err)
}
