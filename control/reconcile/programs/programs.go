// SPDX-License-Identifier: Apache-2.0

// Package programs attaches programs to devices and records where.
package programs

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/loader"
)

// filtersPerCheck bounds how many clsact filters one check looks up. Unlike tcx links, which can
// be listed, each filter takes two requests; the kernel also sends an event for each removal.
const filtersPerCheck = 50

// Datapath attaches programs. It is implemented by *loader.Datapath.
type Datapath interface {
	// Attach makes sure the hook's program is attached to a device, and reports
	// whether it had to do anything.
	Attach(ifindex int, h loader.Hook) (changed bool, err error)
	// AttachFast attaches without waiting for an RCU grace period. provisional reports that
	// Attach must be called later to replace the filter by a tcx link.
	AttachFast(ifindex int, h loader.Hook) (changed, provisional bool, err error)
	// Detach makes sure that the program is not attached. A missing device is not an error.
	Detach(ifindex int, h loader.Hook) error
}

// Attachments attaches programs and records where, so that a missing program is known to have
// been detached by others. The caller serializes all access, except to Suspect.
type Attachments struct {
	dp         Datapath
	log        *slog.Logger
	at         map[device.Place]bool // where programs are attached
	unpromoted map[device.Place]bool // attachments that Attach must still replace by tcx links
	turn       int                   // the clsact filter that is checked next
	suspects   suspects
}

// New returns Attachments of a datapath.
func New(dp Datapath, log *slog.Logger) *Attachments {
	return &Attachments{
		dp: dp, log: log,
		at: make(map[device.Place]bool), unpromoted: make(map[device.Place]bool),
	}
}

// attach attaches the program of a place. With fast, the attachment may be a filter that still
// has to be promoted.
func (a *Attachments) attach(at device.Place, fast bool) (changed bool, err error) {
	provisional := false
	if fast {
		changed, provisional, err = a.dp.AttachFast(at.IfIndex, at.Hook)
	} else {
		changed, err = a.dp.Attach(at.IfIndex, at.Hook)
	}
	if err != nil {
		return false, err
	}
	a.at[at] = true
	if provisional {
		a.unpromoted[at] = true
	} else {
		delete(a.unpromoted, at)
	}
	return changed, nil
}

// Attach attaches the programs of places.
func (a *Attachments) Attach(places []device.Place, fast bool) error {
	var errs []error
	for _, at := range places {
		_, err := a.attach(at, fast)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// AttachNew attaches the programs of the places that have none.
func (a *Attachments) AttachNew(places []device.Place) error {
	var errs []error
	for _, at := range places {
		if !a.at[at] {
			_, err := a.attach(at, true)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Detach detaches the program of a place, whose device may no longer exist.
func (a *Attachments) Detach(at device.Place) error {
	err := a.dp.Detach(at.IfIndex, at.Hook)
	a.forget(at)
	return err
}

func (a *Attachments) forget(at device.Place) {
	delete(a.at, at)
	delete(a.unpromoted, at)
}

// Unpromoted reports whether there are fast attachments.
func (a *Attachments) Unpromoted() bool { return len(a.unpromoted) > 0 }

// Suspect records that a device lost a clsact filter, and reports whether a check is needed: not if
// Fairlead removed it. It may be called at any time.
func (a *Attachments) Suspect(ifindex int) bool { return a.suspects.add(ifindex) }

// PromoteOne replaces one fast attachment by a tcx link, and reports whether there are more.
func (a *Attachments) PromoteOne() (more bool) {
	for at := range a.unpromoted {
		a.suspects.expectRemoval(at.IfIndex)
		if _, err := a.attach(at, false); err != nil {
			// The checks retry, and log the error.
			a.log.Debug("cannot replace the filter by a tcx link", "ifindex", at.IfIndex, "err", err)
			delete(a.unpromoted, at)
		}
		break
	}
	return len(a.unpromoted) > 0
}

// Check makes sure that every program is attached where it should be, and nowhere else, and
// returns how many it restored. have lists the current attachments, which may be slightly
// outdated; nil means that they were not read, and what is recorded is trusted. busy are places
// that someone else attaches or detaches at the same time: they are left as they are. first is the
// first check of a daemon.
func (a *Attachments) Check(have []loader.Attachment, wanted, busy map[device.Place]bool, first bool) (restored int, err error) {
	live, stale := maps.Clone(a.at), []device.Place(nil)
	var errs []error
	if have == nil {
		for at := range live {
			if !wanted[at] && !busy[at] {
				stale = append(stale, at)
			}
		}
	} else {
		var filters []device.Place
		have = slices.DeleteFunc(slices.Clone(have), func(h loader.Attachment) bool { return busy[placeOf(h)] })
		live, stale, filters = a.classify(have, wanted, first)
		n, err := a.checkFilters(filters)
		restored += n
		errs = append(errs, err)
	}
	suspects := a.suspects.take(busy)
	for _, at := range attachOrder(wanted) {
		if busy[at] || live[at] && !suspects[at.IfIndex] {
			continue
		}
		was := a.at[at]
		changed, err := a.attach(at, a.unpromoted[at]) // fast only if it was attached fast
		if err != nil {
			errs = append(errs, err)
			a.forget(at)
			continue
		}
		if changed && was {
			restored++
		}
	}
	for _, at := range stale {
		errs = append(errs, a.Detach(at))
	}
	return restored, errors.Join(errs...)
}

// classify sorts attachments into live ones, stale ones, which must be detached, and those of the
// live ones that are clsact filters to be looked up. In the first check only what this daemon
// attached is live: the others may have an older program.
func (a *Attachments) classify(have []loader.Attachment, wanted map[device.Place]bool, first bool) (live map[device.Place]bool, stale, filters []device.Place) {
	live = make(map[device.Place]bool)
	for _, h := range have {
		at := placeOf(h)
		if !wanted[at] {
			stale = append(stale, at)
			continue
		}
		if h.Live && (!first || a.at[at]) {
			live[at] = true
		}
		if h.Live && h.Kind == loader.Clsact && !first && !a.unpromoted[at] {
			filters = append(filters, at)
		}
	}
	return live, stale, filters
}

func placeOf(h loader.Attachment) device.Place { return device.Place{IfIndex: h.IfIndex, Hook: h.Hook} }

// checkFilters looks up some clsact filters, in turn, and restores those that others removed.
func (a *Attachments) checkFilters(at []device.Place) (restored int, err error) {
	slices.SortFunc(at, func(a, b device.Place) int {
		return cmp.Or(cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Hook, b.Hook))
	})
	n := min(len(at), filtersPerCheck)
	var errs []error
	for i := range n {
		next := at[(a.turn+i)%len(at)]
		changed, err := a.dp.Attach(next.IfIndex, next.Hook)
		if changed {
			restored++
		}
		errs = append(errs, err)
	}
	a.turn += n
	return restored, errors.Join(errs...)
}

// attachOrder sorts places: programs that see the answers to masqueraded flows come last, when no
// program of another version begins such flows (loader.Datapath.Attach).
func attachOrder(places map[device.Place]bool) []device.Place {
	last := func(at device.Place) int {
		if at.Hook == loader.FromUplink || at.Hook == loader.FromTunnel {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(places), func(a, b device.Place) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Hook, b.Hook))
	})
}
