// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/loader"
)

// fake is a datapath that records calls. Device 13 cannot be attached to.
type fake struct{ calls []string }

func (f *fake) call(what string, ifindex int) (bool, error) {
	f.calls = append(f.calls, fmt.Sprint(what, " ", ifindex))
	if ifindex == 13 {
		return false, errors.New("no")
	}
	return true, nil
}

func (f *fake) Attach(ifindex int, _ loader.Hook) (bool, error) { return f.call("attach", ifindex) }
func (f *fake) Detach(ifindex int, _ loader.Hook) error {
	_, err := f.call("detach", ifindex)
	return err
}

func (f *fake) AttachFast(ifindex int, _ loader.Hook) (bool, bool, error) {
	changed, err := f.call("attach fast", ifindex)
	return changed, changed, err
}

// A check plans what is missing and what is too much, but not what others work on, and each part of the plan is
// executed by itself.
func TestPlan(t *testing.T) {
	f := new(fake)
	a := New(f, slog.New(slog.DiscardHandler))
	place := func(i int) device.Place { return device.Place{IfIndex: i, Hook: loader.FromEndpoint} }
	set := func(indices ...int) map[device.Place]bool {
		places := make(map[device.Place]bool)
		for _, i := range indices {
			places[place(i)] = true
		}
		return places
	}
	have := func(indices ...int) (list []loader.Attachment) {
		for _, i := range indices {
			list = append(list, loader.Attachment{IfIndex: i, Hook: loader.FromEndpoint, Kind: loader.TCX, Live: true})
		}
		return list
	}
	if err := a.Attach("x", []device.Place{place(1), place(2), place(3), place(4)}, false); err != nil {
		t.Fatal(err)
	}
	f.calls = nil

	// 1 is there, 2 was lost, 3 and 13 are missing and 3 is busy, 9 is too much, and 8 too, but busy.
	plan := a.Compare(have(1, 4, 8, 9), set(1, 2, 3, 4, 13), set(3, 8), false)
	if len(f.calls) != 0 {
		t.Errorf("a comparison calls %v", f.calls)
	}
	wantPlaces := func(p Plan, want ...int) {
		t.Helper()
		got := []int{}
		for _, at := range p.Places() {
			got = append(got, at.IfIndex)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("the plan is about %v, want %v", got, want)
		}
	}
	wantPlaces(plan, 2, 9, 13)
	low, high := plan.Split(func(at device.Place) bool { return at.IfIndex < 5 })
	wantPlaces(low, 2)
	wantPlaces(high, 9, 13)
	if n, err := a.Execute(low); n != 1 || err != nil || !slices.Equal(f.calls, []string{"attach 2"}) {
		t.Errorf("restored %d, %v by %v", n, err, f.calls)
	}
	f.calls = nil
	if n, err := a.Execute(high); n != 0 || err == nil || !slices.Equal(f.calls, []string{"attach 13", "detach 9"}) {
		t.Errorf("restored %d, %v by %v", n, err, f.calls)
	}
	// Without a list, what is recorded counts: 3 is not wanted any more.
	wantPlaces(a.Compare(nil, set(1, 2, 4), set(), false), 3)
	wantPlaces(a.Compare(nil, set(1, 2, 4), set(3), false))
}
