// SPDX-License-Identifier: Apache-2.0

package txn_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// world is the verbs under test with their environment.
type world struct{ *verbtest.World }

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{verbtest.NewWorld(t)}
}

// Each subscriber sees each change when its verb returns: also one that the kernel does not
// need, and a forced removal that the kernel refused. A verb that failed or changes nothing
// notifies nobody.
func TestSubscribers(t *testing.T) {
	w := newWorld(t)
	verbtest.PopulateEngine(w.World)
	c, ctx := w.Open(w.Store, w.Kernel), t.Context()
	var seen, order []*desired.Snapshot
	for range 2 {
		c.State.Subscribe(func(s *desired.Snapshot) { seen = append(seen, s); order = append(order, c.Snapshot()) })
	}
	verb := func(what string, notified bool, do func() error) {
		t.Helper()
		before, applies := c.Snapshot(), w.Kernel.Applies
		seen, order = nil, nil
		err := do()
		now := c.Snapshot()
		switch {
		case notified && (err != nil || !slices.Equal(seen, []*desired.Snapshot{now, now}) || !slices.Equal(order, seen) || now == before):
			t.Errorf("%s: %v, %d notifications, changed: %t", what, err, len(seen), now != before)
		case !notified && (len(seen) != 0 || now != before):
			t.Errorf("%s: %d notifications, changed: %t", what, len(seen), now != before)
		}
		t.Logf("%s: applied %d times", what, w.Kernel.Applies-applies)
	}
	verb("start", true, func() error { return c.Start(ctx) })
	verb("create", true, func() error { _, err := c.CreateSandbox(ctx, model.SandboxSpec{Name: "box"}); return err })
	verb("create again", false, func() error { _, err := c.CreateSandbox(ctx, model.SandboxSpec{Name: "box"}); return err })
	w.Alive[42] = true
	w.Kernel.OnApply = func(*desired.Snapshot) error { return errors.New("refused") }
	// The kernel does not need these.
	verb("report", true, func() error { return c.SandboxStarted(ctx, "box", 42, 7) })
	verb("names", true, func() error { return c.SyncEngineNames(ctx, verbtest.EngineNames("web", "joined", "ben")) })
	verb("the same names", false, func() error { return c.SyncEngineNames(ctx, verbtest.EngineNames("web", "joined", "ben")) })
	verb("reservation", true, func() error {
		_, err := c.ReserveEndpoint(ctx, verbtest.EngineID("f"), model.EndpointSpec{EngineID: verbtest.EngineID("late")})
		return err
	})
	verb("pool", true, func() error { _, err := c.RequestAddress(ctx, "10.6.0.0/24", netip.Addr{}, false); return err })
	// It refuses these.
	verb("removal", false, func() error { return c.RemoveSandbox(ctx, "box", false) })
	verb("forced removal", true, func() error { return c.RemoveSandbox(ctx, "box", true) })
	verb("release", true, func() error { return c.ReleaseEndpoint(ctx, verbtest.EngineID("serves")) })
}
