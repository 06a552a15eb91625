// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/fairlead-net/fairlead/loader"
)

// filtersPerCheck bounds how many clsact filters one check looks up, though
// the kernel tells of those that are removed: unlike tcx links, which are
// listed, each takes two requests.
const filtersPerCheck = 50

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
		live, stale, filters = p.judge(have, wanted)
		errs = append(errs, p.checkFilters(filters))
	}
	suspects := p.r.suspects.take()
	for at := range wanted {
		if live[at] && !suspects[at.ifindex] {
			continue
		}
		changed, err := p.r.dp.Attach(at.ifindex, at.hook)
		if err != nil {
			errs = append(errs, err)
			delete(p.r.attached, at)
			continue
		}
		if changed && p.r.attached[at] {
			p.count(RepairProgram, 1)
		}
		p.r.attached[at] = true
	}
	for _, at := range stale {
		errs = append(errs, p.r.dp.Detach(at.ifindex, at.hook))
		delete(p.r.attached, at)
	}
	return errors.Join(errs...)
}

// suspects are devices that lost a clsact filter, by index; perhaps one of
// somebody else's.
type suspects struct {
	mu      sync.Mutex
	devices map[int]bool
}

func (s *suspects) add(ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.devices, ifindex)
}

func (s *suspects) take() map[int]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices := s.devices
	s.devices = nil
	return devices
}

// judge sorts the attachments there are: those that are right, those that are
// to go, and, of the right ones, those that are filters. After a start only
// what this daemon attached is right; the rest may have an earlier program.
func (p *pass) judge(have []loader.Attachment, wanted map[place]bool) (live map[place]bool, stale, filters []place) {
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
		if a.Live && !a.TCX && !p.first {
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

// noteAttached notes that programs were attached, so that a missing one is
// known to have been detached by others.
func (r *Reconciler) noteAttached(ifindex uint32, h loader.Hook) {
	r.attached[place{int(ifindex), h}] = true
}
