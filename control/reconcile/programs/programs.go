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
	turn     int // the clsact filter that is checked next; the caller of Compare serializes access

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

// AttachNew attaches the programs of those of an owner's places that have none.
func (a *Attachments) AttachNew(owner string, places []device.Place) error {
	attached, _ := a.recorded()
	var errs []error
	for _, at := range places {
		if !attached[at] {
			_, err := a.attach(owner, at, true)
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

// NextUnpromoted returns a fast attachment and its owner, among those of owners that may be worked on.
func (a *Attachments) NextUnpromoted(may func(owner string) bool) (at device.Place, owner string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, owner := range a.unpromoted {
		if may(owner) {
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

// A Plan is what there is to do so that every program is attached where it should be, and nowhere else.
type Plan struct {
	restore []missing
	filters []device.Place // to be looked up, since others may have removed them
	stale   []device.Place
}

// missing is a place without its program.
type missing struct {
	device.Place
	owner string
	fast  bool // it was attached fast
	was   bool // it was attached before
}

// Compare compares the attachments with the places where there should be one. have lists the current ones, which
// may be slightly outdated; nil means that they were not read, and what is recorded is trusted. busy are places
// that someone else attaches or detaches at the same time: they are left as they are. first is the
// first check of a daemon.
func (a *Attachments) Compare(have []loader.Attachment, wanted, busy map[device.Place]bool, first bool) (p Plan) {
	attached, unpromoted := a.recorded()
	live := attached
	if have == nil {
		for at := range live {
			if !wanted[at] && !busy[at] {
				p.stale = append(p.stale, at)
			}
		}
	} else {
		have = slices.DeleteFunc(slices.Clone(have), func(h loader.Attachment) bool { return busy[placeOf(h)] })
		var filters []device.Place
		live, p.stale, filters = a.classify(have, wanted, first)
		p.filters = a.nextFilters(filters)
	}
	suspects := a.suspects.take(busy)
	for _, at := range attachOrder(wanted) {
		if busy[at] || live[at] && !suspects[at.IfIndex] {
			continue
		}
		owner, fast := unpromoted[at]
		p.restore = append(p.restore, missing{Place: at, owner: owner, fast: fast, was: attached[at]})
	}
	return p
}

// Places returns the places that the plan is about.
func (p Plan) Places() []device.Place {
	all := slices.Concat(p.filters, p.stale)
	for _, m := range p.restore {
		all = append(all, m.Place)
	}
	return all
}

// Split divides the plan into what is about places like this, and the rest.
func (p Plan) Split(like func(device.Place) bool) (first, rest Plan) {
	for _, m := range p.restore {
		to := choose(like(m.Place), &first, &rest)
		to.restore = append(to.restore, m)
	}
	for _, at := range p.filters {
		to := choose(like(at), &first, &rest)
		to.filters = append(to.filters, at)
	}
	for _, at := range p.stale {
		to := choose(like(at), &first, &rest)
		to.stale = append(to.stale, at)
	}
	return first, rest
}

func choose(first bool, a, b *Plan) *Plan {
	if first {
		return a
	}
	return b
}

// Execute does what a plan says, and returns how many programs it restored.
func (a *Attachments) Execute(p Plan) (restored int, err error) {
	var errs []error
	for _, at := range p.filters {
		changed, err := a.dp.Attach(at.IfIndex, at.Hook)
		if changed {
			restored++
		}
		errs = append(errs, err)
	}
	for _, m := range p.restore {
		changed, err := a.attach(m.owner, m.Place, m.fast)
		if err != nil {
			errs = append(errs, err)
			a.forget(m.Place)
			continue
		}
		if changed && m.was {
			restored++
		}
	}
	for _, at := range p.stale {
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

// nextFilters returns some clsact filters, in turn.
func (a *Attachments) nextFilters(at []device.Place) (next []device.Place) {
	slices.SortFunc(at, func(a, b device.Place) int {
		return cmp.Or(cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Hook, b.Hook))
	})
	n := min(len(at), filtersPerCheck)
	for i := range n {
		next = append(next, at[(a.turn+i)%len(at)])
	}
	a.turn += n
	return next
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
