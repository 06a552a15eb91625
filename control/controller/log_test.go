// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// logged returns the buffer that the controller logs to.
func (w *world) logged() *bytes.Buffer {
	w.Log.Reset()
	return &w.Log
}

// Each verb that changes something logs one line. A verb that is refused or has nothing to do
// logs none.
func TestVerbsAreLogged(t *testing.T) {
	w := newWorld(t)
	log, ctx := w.logged(), t.Context()
	sandbox := func(name string, autoRemove bool) func() error {
		return func() error {
			_, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: name, NetworkMode: "web", AutoRemove: autoRemove})
			return err
		}
	}
	network := func(name string) func() error {
		return func() error { _, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: name}); return err }
	}
	connect := func() error { _, err := w.Connect(ctx, "back", "anna", model.EndpointSpec{}); return err }
	disconnect := func() error { return w.Disconnect(ctx, "back", "anna", true) }
	prune := func() error { _, err := w.PruneNetworks(ctx, nil); return err }
	for _, step := range []struct {
		verb    string
		do      func() error
		refused error
		want    string
	}{
		{"network create", network("web"), nil, `level=INFO msg="created network" network=web`},
		{"network create, name in use", network("web"), model.ErrConflict, ""},
		{"network create, another", network("back"), nil, `level=INFO msg="created network" network=back`},
		{"sandbox create", sandbox("anna", false), nil, `level=INFO msg="created sandbox" sandbox=anna network=web`},
		{"run", sandbox("ben", true), nil, `level=INFO msg="created sandbox" sandbox=ben network=web`},
		{"run, the program starts", func() error { return w.SandboxStarted(ctx, "ben", 7, 0) }, nil, ""},
		{"run, the program exits", func() error { return w.SandboxExited(ctx, "ben", 0) }, nil, `level=INFO msg="removed sandbox" sandbox=ben`},
		{"network connect", connect, nil, `level=INFO msg="connected sandbox" sandbox=anna network=back`},
		{"network connect, again", connect, model.ErrForbidden, ""},
		{"network rm, in use", func() error { return w.RemoveNetwork(ctx, "web") }, model.ErrForbidden, ""},
		{"network disconnect", disconnect, nil, `level=INFO msg="disconnected sandbox" sandbox=anna network=back`},
		{"network disconnect, again", disconnect, nil, ""},
		{"network prune", prune, nil, `level=INFO msg="removed unused networks" count=1`},
		{"network prune, again", prune, nil, ""},
		{"rm", func() error { return w.RemoveSandbox(ctx, "anna", false) }, nil, `level=INFO msg="removed sandbox" sandbox=anna`},
		{"rm, again", func() error { return w.RemoveSandbox(ctx, "anna", false) }, model.ErrNotFound, ""},
		{"network rm", func() error { return w.RemoveNetwork(ctx, "web") }, nil, `level=INFO msg="removed network" network=web`},
	} {
		log.Reset()
		if err := step.do(); !errors.Is(err, step.refused) {
			t.Fatalf("%s: %v, want %v", step.verb, err, step.refused)
		}
		if got := strings.TrimSuffix(log.String(), "\n"); got != step.want {
			t.Errorf("%s: the log says %q, want %q", step.verb, got, step.want)
		}
	}
}

// Changes that no verb requested are logged too, and so are failures.
func TestWhatNobodyAskedForIsLogged(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	if _, err := w.CreateSandbox(ctx, model.SandboxSpec{Name: "ben", NetworkMode: "bridge", AutoRemove: true}); err != nil {
		t.Fatal(err)
	}
	log := w.logged()
	says := func(want string) {
		t.Helper()
		if got := strings.TrimSuffix(log.String(), "\n"); got != want {
			t.Errorf("the log says %q, want %q", got, want)
		}
		log.Reset()
	}
	w.Time = w.Time.Add(time.Hour)
	if err := w.Reap(ctx); err != nil {
		t.Fatal(err)
	}
	says(`level=INFO msg="removed sandboxes of exited programs" count=1`)
	if err := w.Reap(ctx); err != nil {
		t.Fatal(err)
	}
	says("")

	broken := errors.New("the kernel is broken")
	w.Kernel.OnApply = func(*desired.Snapshot) error { return broken }
	if _, err := w.CreateNetwork(ctx, model.NetworkSpec{Name: "web"}); !errors.Is(err, broken) {
		t.Fatalf("create: %v, want %v", err, broken)
	}
	says(`level=ERROR msg="could not revert a failed change in the kernel; the next check repairs it" err="the kernel is broken"`)
}
