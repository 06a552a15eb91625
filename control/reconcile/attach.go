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

// filtersPerCheck bounds how many clsact filters one check looks up, though
// the kernel tells of those that are removed: unlike tcx links, which are
// listed, each takes two requests.
const filtersPerCheck = 50

// promoteDelay is how long no verb changed anything before programs that were attached in
// a hurry are attached for good: what an engine does next to its container would
// wait for that.
const promoteDelay = 500 * time.Millisecond

// attachAt attaches the program of a place and notes it, so that a missing one is known
// to have been detached by others. It is provisional perhaps, if that is to be at once.
func (r *Reconciler) attachAt(at place, atOnce bool) (changed bool, err error) {
	provisional := false
	if atOnce {
		changed, provisional, err = r.dp.AttachAtOnce(at.ifindex, at.hook)
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

// forgetAttached notes that a device is gone, or goes.
func (r *Reconciler) forgetAttached(at place) {
	delete(r.attached, at)
	delete(r.unpromoted, at)
}

// attachForGood attaches one after the other what was attached in a promoteDelay, until ctx
// ends. What is left then, the next daemon's first pass attaches.
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

// promoteOne attaches one of them, unless a verb is not long past; then it says how
// long to wait for the next.
func (r *Reconciler) promoteOne() (wait time.Duration, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.lastApply.Add(promoteDelay)); wait > 0 {
		return wait, true
	}
	for at := range r.unpromoted {
		r.suspects.expectRemoval(at.ifindex)
		if _, err := r.attachAt(at, false); err != nil {
			// The checks go on trying, and say what is wrong.
			r.log.Debug("not attached for good", "ifindex", at.ifindex, "err", err)
			delete(r.unpromoted, at)
		}
		break
	}
	return 0, len(r.unpromoted) > 0
}

// checkAttachments makes sure every program is attached where it shall be, and
// nowhere else. have is what is attached, or was a moment ago; nil: nobody
// looked, so what was attached still is.
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
	for at := range wanted {
		if live[at] && !suspects[at.ifindex] {
			continue
		}
		was := p.r.attached[at]
		changed, err := p.r.attachAt(at, p.r.unpromoted[at]) // as it was
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

// suspects are devices that lost a clsact filter, by index; perhaps one of
// somebody else's.
type suspects struct {
	mu       sync.Mutex
	devices  map[int]bool
	expected map[int]bool // of those the next one to go is Fairlead's own doing
}

// add reports whether that is news.
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

// expectRemoval says that Fairlead is going to remove a filter.
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

// classify sorts the attachments there are: those that are right, those that are
// to go, and, of the right ones, those that are filters. After a start only
// what this daemon attached is right; the rest may have an earlier program.
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

// checkFilters looks some clsact filters up, in turn, and restores those that
// somebody removed.
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
