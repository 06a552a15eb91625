// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/loader"
)

// filtersPerCheck bounds how many clsact filters one check looks up. Unlike tcx links, which can
// be listed, each filter takes two requests; the kernel also sends an event for each removal.
const filtersPerCheck = 50

// promoteDelay is how long no verb must have run before filters that were attached fast are
// replaced by tcx links: replacing them earlier would delay what an engine does next with its
// container.
const promoteDelay = 500 * time.Millisecond

// attachAt attaches the program of a place and records it, so that a missing program is known to
// have been detached by others. With fast, the attachment may be a filter that still has to be
// promoted.
func (r *Reconciler) attachAt(at place, fast bool) (changed bool, err error) {
	provisional := false
	if fast {
		changed, provisional, err = r.dp.AttachFast(at.ifindex, at.hook)
	} else {
		changed, err = r.dp.Attach(at.ifindex, at.hook)
	}
	if err != nil {
		return false, err
	}
	r.attached[at] = true
	if provisional {
		r.unpromoted[at] = true
	} else {
		delete(r.unpromoted, at)
	}
	return changed, nil
}

// forgetAttached records that a device was removed or is about to be.
func (r *Reconciler) forgetAttached(at place) {
	delete(r.attached, at)
	delete(r.unpromoted, at)
}

// promoteLoop replaces fast attachments by tcx links, one at a time, until ctx ends. The first
// pass of the next daemon promotes those that remain.
func (r *Reconciler) promoteLoop(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.promote:
		case <-due:
		}
		due = nil
		if wait, more := r.promoteOne(); more {
			due = time.After(wait)
		}
	}
}

// promoteOne promotes one attachment. If a verb ran within promoteDelay, it promotes none and
// returns how long to wait.
func (r *Reconciler) promoteOne() (wait time.Duration, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.lastApply.Add(promoteDelay)); wait > 0 {
		return wait, true
	}
	for at := range r.unpromoted {
		r.suspects.expectRemoval(at.ifindex)
		if _, err := r.attachAt(at, false); err != nil {
			// The checks retry, and log the error.
			r.log.Debug("cannot replace the filter by a tcx link", "ifindex", at.ifindex, "err", err)
			delete(r.unpromoted, at)
		}
		break
	}
	return 0, len(r.unpromoted) > 0
}

// checkAttachments makes sure that every program is attached where it should be, and nowhere
// else. have lists the current attachments, which may be slightly outdated; nil means that they
// were not read, and r.attached is trusted.
func (p *pass) checkAttachments(have []loader.Attachment) error {
	wanted := p.r.places()
	live, stale := maps.Clone(p.r.attached), []place(nil)
	var errs []error
	if have == nil {
		for at := range live {
			if !wanted[at] {
				stale = append(stale, at)
			}
		}
	} else {
		var filters []place
		live, stale, filters = p.classify(have, wanted)
		errs = append(errs, p.checkFilters(filters))
	}
	suspects := p.r.suspects.take()
	for _, at := range attachOrder(wanted) {
		if live[at] && !suspects[at.ifindex] {
			continue
		}
		was := p.r.attached[at]
		changed, err := p.r.attachAt(at, p.r.unpromoted[at]) // fast only if it was attached fast
		if err != nil {
			errs = append(errs, err)
			p.r.forgetAttached(at)
			continue
		}
		if changed && was {
			p.count(RepairProgram, 1)
		}
	}
	for _, at := range stale {
		errs = append(errs, p.r.dp.Detach(at.ifindex, at.hook))
		p.r.forgetAttached(at)
	}
	return errors.Join(errs...)
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

// classify sorts attachments into live ones, stale ones, which must be detached, and those of the
// live ones that are clsact filters to be looked up. In the first pass only what this daemon
// attached is live: the others may have an older program.
func (p *pass) classify(have []loader.Attachment, wanted map[place]bool) (live map[place]bool, stale, filters []place) {
	live = make(map[place]bool)
	for _, a := range have {
		at := place{a.IfIndex, a.Hook}
		if !wanted[at] {
			stale = append(stale, at)
			continue
		}
		if a.Live && (!p.first || p.r.attached[at]) {
			live[at] = true
		}
		if a.Live && !a.TCX && !p.first && !p.r.unpromoted[at] {
			filters = append(filters, at)
		}
	}
	return live, stale, filters
}

// checkFilters looks up some clsact filters, in turn, and restores those that others removed.
func (p *pass) checkFilters(at []place) error {
	slices.SortFunc(at, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.ifindex, b.ifindex), cmp.Compare(a.hook, b.hook))
	})
	n := min(len(at), filtersPerCheck)
	var errs []error
	for i := range n {
		next := at[(p.r.clsactTurn+i)%len(at)]
		changed, err := p.r.dp.Attach(next.ifindex, next.hook)
		if changed {
			p.count(RepairProgram, 1)
		}
		errs = append(errs, err)
	}
	p.r.clsactTurn += n
	return errors.Join(errs...)
}

// attachOrder sorts places: programs that see the answers to masqueraded flows come last, when no
// program of another version begins such flows (loader.Datapath.Attach).
func attachOrder(places map[place]bool) []place {
	last := func(at place) int {
		if at.hook == loader.FromUplink {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(places), func(a, b place) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.ifindex, b.ifindex), cmp.Compare(a.hook, b.hook))
	})
}
