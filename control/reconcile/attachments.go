// SPDX-License-Identifier: Apache-2.0

package reconcile

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

// place is where a program is attached.
type place = device.Place

// attachments attaches programs and records where, so that a missing program is known to have
// been detached by others.
type attachments struct {
	dp         Datapath
	log        *slog.Logger
	at         map[place]bool // where programs are attached
	unpromoted map[place]bool // attachments that Attach must still replace by tcx links
	turn       int            // the clsact filter that is checked next
	promote    chan struct{}  // has a token if some attachments are unpromoted
	suspects   suspects
}

func newAttachments(dp Datapath, log *slog.Logger) *attachments {
	return &attachments{
		dp: dp, log: log,
		at: make(map[place]bool), unpromoted: make(map[place]bool), promote: make(chan struct{}, 1),
	}
}

// attach attaches the program of a place. With fast, the attachment may be a filter that still
// has to be promoted.
func (a *attachments) attach(at place, fast bool) (changed bool, err error) {
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

// attachAll attaches the programs of places.
func (a *attachments) attachAll(places []place, fast bool) error {
	var errs []error
	for _, at := range places {
		_, err := a.attach(at, fast)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// attachNew attaches the programs of the places that have none.
func (a *attachments) attachNew(places []place) error {
	var errs []error
	for _, at := range places {
		if !a.at[at] {
			_, err := a.attach(at, true)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// detach detaches the program of a place, whose device may no longer exist.
func (a *attachments) detach(at place) error {
	err := a.dp.Detach(at.IfIndex, at.Hook)
	a.forget(at)
	return err
}

func (a *attachments) forget(at place) {
	delete(a.at, at)
	delete(a.unpromoted, at)
}

// wakePromoter wakes the loop that replaces fast attachments, if there are any.
func (a *attachments) wakePromoter() {
	if len(a.unpromoted) > 0 {
		wake(a.promote)
	}
}

// promoteOne replaces one fast attachment by a tcx link, and reports whether there are more.
func (a *attachments) promoteOne() (more bool) {
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

// check makes sure that every program is attached where it should be, and nowhere else, and
// returns how many it restored. have lists the current attachments, which may be slightly
// outdated; nil means that they were not read, and what is recorded is trusted. first is the
// first check of a daemon.
func (a *attachments) check(have []loader.Attachment, wanted map[place]bool, first bool) (restored int, err error) {
	live, stale := maps.Clone(a.at), []place(nil)
	var errs []error
	if have == nil {
		for at := range live {
			if !wanted[at] {
				stale = append(stale, at)
			}
		}
	} else {
		var filters []place
		live, stale, filters = a.classify(have, wanted, first)
		n, err := a.checkFilters(filters)
		restored += n
		errs = append(errs, err)
	}
	suspects := a.suspects.take()
	for _, at := range attachOrder(wanted) {
		if live[at] && !suspects[at.IfIndex] {
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
		errs = append(errs, a.detach(at))
	}
	return restored, errors.Join(errs...)
}

// classify sorts attachments into live ones, stale ones, which must be detached, and those of the
// live ones that are clsact filters to be looked up. In the first check only what this daemon
// attached is live: the others may have an older program.
func (a *attachments) classify(have []loader.Attachment, wanted map[place]bool, first bool) (live map[place]bool, stale, filters []place) {
	live = make(map[place]bool)
	for _, h := range have {
		at := place{IfIndex: h.IfIndex, Hook: h.Hook}
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

// checkFilters looks up some clsact filters, in turn, and restores those that others removed.
func (a *attachments) checkFilters(at []place) (restored int, err error) {
	slices.SortFunc(at, func(a, b place) int {
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

// suspects are devices, by index, that lost a clsact filter, which may have been another
// program's.
type suspects struct {
	mu       sync.Mutex
	devices  map[int]bool
	expected map[int]bool // devices whose next removed filter is one that Fairlead removes
}

// add records a removed filter, and reports whether a check is needed.
func (s *suspects) add(ifindex int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expected[ifindex] {
		delete(s.expected, ifindex)
		return false
	}
	set(&s.devices, ifindex)
	return true
}

// expectRemoval announces that Fairlead is about to remove a filter.
func (s *suspects) expectRemoval(ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.expected, ifindex)
}

func (s *suspects) take() map[int]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices := s.devices
	s.devices = nil
	return devices
}

// attachOrder sorts places: programs that see the answers to masqueraded flows come last, when no
// program of another version begins such flows (loader.Datapath.Attach).
func attachOrder(places map[place]bool) []place {
	last := func(at place) int {
		if at.Hook == loader.FromUplink {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(places), func(a, b place) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Hook, b.Hook))
	})
}
