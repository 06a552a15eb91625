// SPDX-License-Identifier: Apache-2.0

// Package programs attaches programs to devices and records where.
package programs

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

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
// been detached by others. Its methods may be called concurrently, for different places.
type Attachments struct {
	dp       Datapath
	log      *slog.Logger
	suspects suspects
	turn     int // the clsact filter that is checked next

	mu         sync.Mutex              // guards what follows; it is not held while the kernel works
	at         map[device.Place]bool   // where programs are attached
	unpromoted map[device.Place]string // attachments that Attach must still replace by tcx links, and of which object
}

// New returns Attachments of a datapath.
func New(dp Datapath, log *slog.Logger) *Attachments {
	return &Attachments{
		dp: dp, log: log,
		at: make(map[device.Place]bool), unpromoted: make(map[device.Place]string),
	}
}

// attach attaches the program of a place of an object. With fast, the attachment may be a filter that still
// has to be promoted.
func (a *Attachments) attach(owner string, at device.Place, fast bool) (changed bool, err error) {
	provisional := false
	if fast {
		changed, provisional, err = a.dp.AttachFast(at.IfIndex, at.Hook)
	} else {
		changed, err = a.dp.Attach(at.IfIndex, at.Hook)
	}
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[at] = true
	if provisional {
		a.unpromoted[at] = owner
	} else {
		delete(a.unpromoted, at)
	}
	return changed, nil
}

// Attach attaches the programs of an object's places.
func (a *Attachments) Attach(owner string, places []device.Place, fast bool) error {
	var errs []error
	for _, at := range places {
		_, err := a.attach(owner, at, fast)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// AttachNew attaches the programs of the places that have none, which belong to no object.
func (a *Attachments) AttachNew(places []device.Place) error {
	attached, _ := a.recorded()
	var errs []error
	for _, at := range places {
		if !attached[at] {
			_, err := a.attach("", at, true)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// recorded returns copies of what is recorded.
func (a *Attachments) recorded() (at map[device.Place]bool, unpromoted map[device.Place]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.at), maps.Clone(a.unpromoted)
}

// Detach detaches the program of a place, whose device may no longer exist.
func (a *Attachments) Detach(at device.Place) error {
	err := a.dp.Detach(at.IfIndex, at.Hook)
	a.forget(at)
	return err
}

func (a *Attachments) forget(at device.Place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.at, at)
	delete(a.unpromoted, at)
}

// Suspect records that a device lost a clsact filter, and reports whether a check is needed: not if
// Fairlead removed it. It may be called at any time.
func (a *Attachments) Suspect(ifindex int) bool { return a.suspects.add(ifindex) }

// Unpromoted reports whether there are fast attachments.
func (a *Attachments) Unpromoted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unpromoted) > 0
}

// NextUnpromoted returns a fast attachment and the object that it belongs to, or "", among those of objects that may be
// worked on.
func (a *Attachments) NextUnpromoted(may func(owner string) bool) (at device.Place, owner string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, owner := range a.unpromoted {
		if owner == "" || may(owner) {
			return at, owner, true
		}
	}
	return device.Place{}, "", false
}

// Promote replaces a fast attachment by a tcx link.
func (a *Attachments) Promote(at device.Place) {
	a.suspects.expectRemoval(at.IfIndex)
	if _, err := a.attach("", at, false); err != nil {
		// The checks retry, and log the error.
		a.log.Debug("cannot replace the filter by a tcx link", "ifindex", at.IfIndex, "err", err)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.unpromoted, at)
	}
}

// Check makes sure that every program is attached where it should be, and nowhere else, and
// returns how many it restored. have lists the current attachments, which may be slightly
// outdated; nil means that they were not read, and what is recorded is trusted. busy are places
// that someone else attaches or detaches at the same time: they are left as they are. first is the
// first check of a daemon.
func (a *Attachments) Check(have []loader.Attachment, wanted, busy map[device.Place]bool, first bool) (restored int, err error) {
	attached, unpromoted := a.recorded()
	live, stale := attached, []device.Place(nil)
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
		was := attached[at]
		owner, fast := unpromoted[at]
		changed, err := a.attach(owner, at, fast) // fast only if it was attached fast
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
	attached, unpromoted := a.recorded()
	live = make(map[device.Place]bool)
	for _, h := range have {
		at := placeOf(h)
		if !wanted[at] {
			stale = append(stale, at)
			continue
		}
		if h.Live && (!first || attached[at]) {
			live[at] = true
		}
		if _, fast := unpromoted[at]; h.Live && h.Kind == loader.Clsact && !first && !fast {
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
