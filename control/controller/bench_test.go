// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/verbtest"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// nopKernel does nothing.
type nopKernel struct{}

func (nopKernel) Accept(context.Context, *desired.Snapshot) func() error {
	return func() error { return nil }
}

func (nopKernel) HostAddr(context.Context, netip.Prefix) (string, netip.Addr, error) {
	return "", netip.Addr{}, nil
}

func (nopKernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return nil, nil }

func (nopKernel) PortFree(model.Proto, netip.Addr, uint16, uint16) error { return nil }

func (nopKernel) VanishedSandboxes(time.Duration) []string { return nil }

func (nopKernel) InnerEnd(*model.Endpoint) (model.InnerEnd, error) { return model.InnerTaken, nil }

func (nopKernel) EphemeralRange() (lo, hi uint16) { return 32768, 60999 }

// nopStore stops storing once it is armed.
type nopStore struct {
	store.Store
	off bool
}

func (s *nopStore) Commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	if s.off {
		return 1, nil
	}
	return s.Store.Commit(ctx, ops...)
}

// populated returns a controller with 1000 sandboxes in 10 networks, with 10 published ports
// each.
func populated(tb testing.TB) verbtest.Parts {
	w := newWorld(tb)
	s := &nopStore{Store: w.Store, off: true}
	c := w.Open(s, nopKernel{}, silent)
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	for i := range 10 {
		if _, err := c.CreateNetwork(tb.Context(), model.NetworkSpec{Name: fmt.Sprint("n", i), EnableIPv6: true}); err != nil {
			tb.Fatal(err)
		}
	}
	for i := range 1000 {
		spec := model.SandboxSpec{NetworkMode: fmt.Sprint("n", i%10)}
		for p := range 10 {
			spec.Ports = append(spec.Ports, verbtest.TCP("", uint16(20000+i*10+p), 1, uint16(80+p), 1))
		}
		if _, err := c.CreateSandbox(tb.Context(), spec); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

func silent(cfg *verbtest.Configs) { cfg.State.Log = nil }

// publishes returns how many publishes the first endpoint of a sandbox serves.
func publishes(c verbtest.Parts, sb *model.Sandbox) int {
	ep := desired.First(c.Snapshot().EndpointsOf(sb.ID))
	return len(slices.Collect(c.Snapshot().PublishesOf(ep.ID)))
}

func BenchmarkCreateSandbox(b *testing.B) {
	for name, ports := range map[string][]model.PortSpec{
		"no-port":     nil,
		"one-port":    {verbtest.TCP("", 80, 1, 80, 1)},
		"automatic":   {verbtest.TCP("", 0, 0, 80, 1)},
		"range-10000": {verbtest.TCP("", 1000, 10000, 1000, 10000)},
	} {
		b.Run(name, func(b *testing.B) {
			c := populated(b)
			b.ReportAllocs()
			for b.Loop() {
				sb, err := c.CreateSandbox(b.Context(), model.SandboxSpec{Name: "bench", NetworkMode: "n0", Ports: ports})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := c.RemoveSandbox(b.Context(), sb.ID, false); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// TestVerbsStayFast holds the verbs on a crowded host to a time that nobody notices. A
// verb takes about a hundredth of the limit; the margin is for slow machines. CPU time
// is measured, because other programs may be running.
func TestVerbsStayFast(t *testing.T) {
	// The limits for one verb, and for publishing 10 000 ports at once.
	const verb, bulk = 100 * time.Millisecond, time.Second
	c := populated(t)
	timed := func(what string, limit time.Duration, f func() error) {
		t.Helper()
		begin := processorTime(t)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if d := processorTime(t) - begin; d > limit {
			t.Errorf("%s took %v, want at most %v", what, d, limit)
		}
	}
	ctx := t.Context()
	timed("create", verb, func() error {
		_, err := c.CreateSandbox(ctx, model.SandboxSpec{Name: "x1", NetworkMode: "n0", Ports: []model.PortSpec{verbtest.TCP("", 1000, 10000, 1000, 10000)}})
		return err
	})
	if sb, _ := c.Sandbox("x1"); publishes(c, sb) != 1 {
		t.Errorf("a range has %d publishes, want 1", publishes(c, sb))
	}
	timed("connect", verb, func() error { _, err := c.Connect(ctx, "n1", "x1", model.EndpointSpec{}); return err })
	timed("disconnect", verb, func() error { return c.Disconnect(ctx, "n0", "x1", false) })
	timed("remove", verb, func() error { return c.RemoveSandbox(ctx, "x1", false) })
	var many []model.PortSpec
	for i := range 10000 {
		many = append(many, verbtest.TCP("", uint16(30000+i), 1, uint16(1+i), 1))
	}
	timed("create with 10000 publishes", bulk, func() error {
		_, err := c.CreateSandbox(ctx, model.SandboxSpec{Name: "x2", NetworkMode: "n0", Ports: many})
		return err
	})
	timed("remove with 10000 publishes", bulk, func() error { return c.RemoveSandbox(ctx, "x2", false) })
}

// processorTime returns the CPU time that all threads of this process have used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// BenchmarkGrowth is one sandbox that is created on a host that has many, without ports.
func BenchmarkGrowth(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorld(b)
			c := w.Open(&nopStore{Store: w.Store, off: true}, nopKernel{}, silent)
			if err := c.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			for i := range 10 {
				spec := model.NetworkSpec{Name: fmt.Sprint("n", i), Subnets: []model.SubnetSpec{{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i))}}}
				if _, err := c.CreateNetwork(b.Context(), spec); err != nil {
					b.Fatal(err)
				}
			}
			for i := range size {
				if _, err := c.CreateSandbox(b.Context(), model.SandboxSpec{NetworkMode: fmt.Sprint("n", i%10)}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				sb, err := c.CreateSandbox(b.Context(), model.SandboxSpec{Name: "bench", NetworkMode: "n0"})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := c.RemoveSandbox(b.Context(), sb.ID, false); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
