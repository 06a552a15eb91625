// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/loop"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// startWatch starts the watch of a world's namespaces, and checks all sandboxes as Run would.
func startWatch(t *testing.T, w *world) *loop.Pending {
	t.Helper()
	b := loop.NewPending(w.r.sandboxes)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	if !hasEvents(b, 5*time.Second) {
		t.Fatal("the watch does not start")
	}
	b.Check(t.Context())
	return b
}

// hasEvents waits for the first event, and then for the others of the same change.
func hasEvents(b *loop.Pending, timeout time.Duration) bool {
	select {
	case <-b.Ready:
		time.Sleep(loop.Settle)
		return true
	case <-time.After(timeout):
		return false
	}
}

// deleteAddr deletes an address of a sandbox's eth0.
func deleteAddr(w *world, b *model.Sandbox, p netip.Prefix) {
	w.inNetNS(b, func(h *rtnl.Handle) error {
		l, err := h.LinkByName("eth0")
		return errors.Join(err, h.DeleteAddr(l.Index, p))
	})
}

// wantSettled fails the test if the remaining events cause repairs, and thus more events. Events
// of carrier changes arrive within a second.
func wantSettled(t *testing.T, w *world, b *loop.Pending) {
	t.Helper()
	before := w.r.Stats().Repairs[report.Address]
	for range 10 {
		if !hasEvents(b, 1500*time.Millisecond) {
			return
		}
		b.Check(t.Context())
		if now := w.r.Stats().Repairs[report.Address]; now != before {
			t.Fatalf("%d repairs, %d before: repairs cause repairs", now, before)
		}
	}
	t.Error("repairs cause events again and again")
}

func TestInsidesAreHeard(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("net", 7)
	first, other := p.sandbox("first"), p.sandbox("other")
	e := p.endpoint(first, n)
	p.endpoint(other, n)
	w.apply(p)
	b := startWatch(t, w)
	wantSettled(t, w, b)

	deleteAddr(w, first, e.IPv4)
	if !hasEvents(b, 5*time.Second) {
		t.Fatal("no event for a removed address")
	}
	if ids := w.r.sandboxes.Affected(b.Take()); len(ids) != 1 || ids[0] != first.ID {
		t.Errorf("affected are %v, want %s", ids, first.ID)
	}
	number, _ := w.r.state.Objects.Sandboxes[first.ID].Number()
	b.Note(number)
	b.Check(t.Context())
	if got := w.r.Stats().Repairs; got[report.Address] != 1 || got[report.Route] != 1 {
		t.Errorf("repairs are %v, want an address and the default route", got)
	}
	wantSettled(t, w, b)

	// A sandbox that a verb creates while the watch runs is watched too.
	late := p.sandbox("late")
	e = p.endpoint(late, n)
	w.apply(p)
	wantSettled(t, w, b)
	deleteAddr(w, late, e.IPv6)
	if !hasEvents(b, 5*time.Second) {
		t.Fatal("no event for a removed address in a new sandbox")
	}
	b.Check(t.Context())
	if got := w.r.Stats().Repairs[report.Address]; got != 2 {
		t.Errorf("%d addresses repaired, want 2", got)
	}
}

// When events were lost, all sandboxes are checked, some in a row, and those that already wait
// keep their place.
func TestBacklog(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	const rest = 20
	for i := range loop.SandboxesAtOnce + rest {
		p.sandbox(fmt.Sprint("box", i)).NetworkMode = model.NetworkNone
	}
	w.apply(p)
	b := startWatch(t, w)
	if len(b.Waiting) != rest || len(b.Ready) != 1 {
		t.Fatalf("%d sandboxes wait, and there are %d tokens; want %d and 1", len(b.Waiting), len(b.Ready), rest)
	}
	if !b.Rested.After(time.Now()) {
		t.Error("no rest after the work")
	}
	waited := b.Waiting
	b.Missed()
	b.Check(t.Context())
	if len(b.Waiting) != rest {
		t.Errorf("%d sandboxes wait, want %d", len(b.Waiting), rest)
	}
	for _, id := range waited {
		if _, watched := w.r.state.Objects.Sandboxes[id].Number(); !watched || slices.Contains(b.Waiting, id) {
			t.Errorf("sandbox %s waited and has to wait again", model.ShortID(id))
		}
	}
}
