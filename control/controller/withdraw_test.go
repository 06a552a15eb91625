// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// A backend that is to be removed gets no new flows. It serves again if its removal fails, does not follow within a
// minute, or was interrupted by a restart.
func TestWithdraw(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.MakeNetwork(model.NetworkSpec{Name: "shop"})
	if _, err := w.CreateService(ctx, model.ServiceSpec{Name: "web", Network: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.MakeSandbox(model.SandboxSpec{Name: "b1", NetworkMode: "shop", Endpoint: model.EndpointSpec{Network: "shop", Aliases: []string{"web"}}})
	w.MakeSandbox(model.SandboxSpec{Name: "other", NetworkMode: "shop"})
	leaving := func(want bool, when string) {
		t.Helper()
		for ep := range w.Snapshot().Endpoints() {
			backend := w.Snapshot().SandboxName(ep.SandboxID) == "b1"
			if ep.Leaving != (want && backend) {
				t.Errorf("%s: endpoint of %s: leaving is %t", when, w.Snapshot().SandboxName(ep.SandboxID), ep.Leaving)
			}
		}
	}
	withdraw := func() {
		t.Helper()
		for _, name := range []string{"b1", "other"} {
			if err := w.Withdraw(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		leaving(true, "after Withdraw")
	}
	withdraw()
	if err := w.Reap(ctx); err != nil {
		t.Error(err)
	}
	leaving(true, "soon")
	w.Time = w.Time.Add(2 * time.Minute)
	if err := w.Reap(ctx); err != nil {
		t.Error(err)
	}
	leaving(false, "later")
	withdraw()
	w.Restart()
	leaving(false, "after a restart")
	withdraw()
	w.MakeSandbox(model.SandboxSpec{Name: "joins", NetworkMode: model.ModeContainer + "b1"})
	if err := w.Withdraw(ctx, "b1"); !errors.Is(err, model.ErrConflict) {
		t.Errorf("withdraw a sandbox whose namespace another one shares: %v, want %v", err, model.ErrConflict)
	}
	if err := w.RemoveSandbox(ctx, "b1", true); err == nil {
		t.Error("removed a sandbox whose namespace another one shares")
	}
	leaving(true, "after a refusal that was clear in advance")
	w.Kernel.OnApply = func(s *desired.Snapshot) error {
		for ep := range s.Endpoints() {
			if s.SandboxName(ep.SandboxID) == "b1" {
				return nil
			}
		}
		return errors.New("the device is broken")
	}
	if err := w.Disconnect(ctx, "shop", "b1", false); err == nil {
		t.Error("disconnected although the kernel refused")
	}
	w.Kernel.OnApply = nil
	leaving(false, "after a failed removal")
	for _, name := range []string{"joins", "b1", "other"} {
		if err := w.RemoveSandbox(ctx, name, false); err != nil {
			t.Error(err)
		}
	}
	w.Check()
}
