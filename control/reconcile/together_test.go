// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/loop"
	"github.com/fairlead-net/fairlead/loader"
)

// Verbs of all kinds run at the same time, beside everything that checks and repairs. Nobody breaks anything, so
// nothing is repaired, and what no verb works on is complete at every moment; or calls fail at random, and verbs are
// reverted. In the end all is as a fresh daemon makes it.
func TestVerbsBesideChecks(t *testing.T) {
	for _, faults := range []bool{false, true} {
		t.Run(fmt.Sprint("faults=", faults), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			newThrong(t, faults).test(seed)
		})
	}
}

// throng is clients of a reconciler, and what checks it.
type throng struct {
	*testing.T
	w      *world
	p      *plan
	faults bool
	said   said

	mu   sync.Mutex      // of the plan: snapshots are accepted in the order in which they are made
	busy map[string]bool // IDs of what verbs work on
	done atomic.Bool
}

// said are the lines of the log that say that something is wrong.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := string(b)
	if !strings.Contains(line, "level=INFO") || strings.Contains(line, "leftover") {
		s.lines = append(s.lines, strings.TrimSpace(line))
	}
	return len(b), nil
}

// newThrong makes four networks, one of them untracked and one of several nodes, each with a member that stays.
func newThrong(t *testing.T, faults bool) *throng {
	c := &throng{T: t, w: newWorld(t), faults: faults, busy: make(map[string]bool)}
	c.w.log = slog.New(slog.NewTextHandler(&c.said, nil))
	c.w.restart()
	c.p = c.w.plan()
	for i := range byte(4) {
		n := c.p.network(fmt.Sprint("net", i), i+1)
		switch i {
		case 2:
			n.Untracked = true
		case 3:
			n.Driver, n.VNI, n.NodeIPv4 = model.DriverOverlay, 70000, netip.MustParseAddr("10.4.200.1")
		}
		c.p.endpoint(c.p.sandbox(n.Name+"stays"), n).Aliases = []string{"web0", "web1", "web2", "web3"}
	}
	c.w.r.SetRemote(func(*model.Service) []RemoteBackend {
		return []RemoteBackend{{Member: &model.Member{ID: id("remote"), SandboxID: "x", IPv4: netip.MustParseAddr("10.4.100.9")}}}
	}, unconfirmed)
	c.w.apply(c.p)
	return c
}

// unconfirmed confirms nothing to other nodes.
func unconfirmed(map[string]bool) func() { return func() {} }

func (c *throng) test(seed uint64) {
	var clients, checks sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 15 {
				if c.faults && rnd.IntN(4) == 0 {
					c.w.mu.Lock()
					c.w.fault = 1 + rnd.IntN(25)
					c.w.mu.Unlock()
				}
				c.anyVerb(rnd, i)
			}
		})
	}
	for _, check := range c.checks() {
		checks.Go(func() {
			for !c.done.Load() {
				if err := check(); err != nil && !c.faults {
					c.Error(err)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	clients.Wait()
	c.done.Store(true)
	checks.Wait()
	c.w.fault = 0
	stats := c.w.r.Stats()
	for kind, n := range stats.Repairs {
		if n > 0 && !c.faults {
			c.Errorf("%d repairs of kind %s", n, kind)
		}
	}
	if !c.faults && len(c.said.lines) > 0 {
		c.Errorf("logged\n%s", strings.Join(c.said.lines, "\n"))
	}
	if !c.w.r.state.Turns.Idle() {
		c.Error("turns do not end")
	}
	for _, b := range c.p.s.Sandboxes { // a fresh daemon does not create an engine's pairs
		if b.ManagedBy == model.ByEngine {
			delete(c.p.s.Sandboxes, b.ID)
			maps.DeleteFunc(c.p.s.Endpoints, func(_ string, e *model.Endpoint) bool { return e.SandboxID == b.ID })
		}
	}
	c.w.apply(c.p)
	c.w.promoteAll()
	if repairs := c.w.resync(); repairs.Total() > 0 && !c.faults {
		c.Errorf("repaired %v in the end", repairs)
	}
	got := append(c.w.render(), c.w.renderPools()...)
	fresh := newWorldLike(c.T, c.w)
	fresh.r.SetRemote(c.w.r.state.Objects.Remote, unconfirmed)
	fresh.apply(c.p)
	if want := append(fresh.render(), fresh.renderPools()...); !slices.Equal(want, got) {
		c.Errorf("the kernel has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// checks are what the daemon does at any time beside verbs.
func (c *throng) checks() []func() error {
	r, ctx := c.w.r, c.Context()
	l := loop.NewPending(r.sandboxes)
	host := func(how check.Thoroughness) func() error {
		return func() error {
			_, err := r.host.Check(ctx, how)
			return err
		}
	}
	return []func() error{
		host(check.Quick), host(check.Regular), host(check.Regular),
		func() error {
			l.Missed()
			l.Check(ctx)
			_, err := r.sandboxes.Check(ctx, r.sandboxes.Next(-1))
			return err
		},
		func() error {
			restored, _, err := r.state.Entries.VerifyPart()
			r.host.NoteVerified(ctx, time.Now(), restored, err)
			return err
		},
		func() error {
			r.state.Mu.Lock()
			r.promoter.LastVerb = time.Time{}
			r.state.Mu.Unlock()
			r.promoter.One()
			return r.host.AttachUplinks(ctx)
		},
		func() error {
			r.RemoteChanged(id("net3"))
			return r.remote.Update(ctx)
		},
		c.complete,
		func() error {
			c.mu.Lock()
			all := slices.Collect(maps.Values(c.p.s.Endpoints))
			c.mu.Unlock()
			for _, e := range all {
				if _, err := r.InnerEnd(e); err != nil {
					return err
				}
			}
			_ = r.Check(ctx, all[0].SandboxID) // which a verb may have removed
			for _, gone := range r.VanishedSandboxes(0) {
				c.mu.Lock()
				if b := c.p.s.Sandboxes[gone]; b != nil && !c.busy[gone] && !c.faults {
					c.Errorf("the namespace of %s is missing", b.Name)
				}
				c.mu.Unlock()
			}
			return nil
		},
	}
}

// complete checks that the endpoints, publishes and services that no verb works on have their entries, and the
// endpoints a program.
func (c *throng) complete() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.r.state.Mu.Lock() // between two passes
	defer c.w.r.state.Mu.Unlock()
	w, s := c.w, c.p.s
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.faults {
		return nil
	}
	for _, e := range s.Endpoints {
		n := s.Networks[e.NetworkID]
		if c.busy[e.SandboxID] || e.SandboxID == "" {
			continue
		}
		at := w.neighbours.m[neighbourKey{n.Index, e.IPv4.Addr()}].IfIndex
		for _, a := range []netip.Addr{e.IPv4.Addr(), e.IPv6.Addr(), e.MAC.LinkLocal()} {
			if have := w.neighbours.m[neighbourKey{n.Index, a}]; model.MAC(have.MAC) != e.MAC || have.IfIndex != at {
				c.Errorf("endpoint %v: neighbour %v is %+v", e.IPv4, a, have)
			}
		}
		have := w.endpoints.m[at]
		if have.Net != n.Index || w.fdb.m[fdbKey{n.Index, have.MAC}].IfIndex != at || !w.attached[device.Place{IfIndex: int(at), Hook: loader.FromEndpoint}] {
			c.Errorf("endpoint %v lacks an entry or a program: %+v", e.IPv4, have)
		}
	}
	for _, b := range s.Publishes {
		e := s.Endpoints[b.EndpointID]
		if have := w.publishes.m[publishKey{netip.IPv4Unspecified(), b.HostPort, uint8(b.Proto)}]; have.Backend != e.IPv4.Addr() && !c.busy[e.SandboxID] {
			c.Errorf("the backend of port %d is %v, want %v", b.HostPort, have.Backend, e.IPv4)
		}
	}
	for _, svc := range s.Services {
		if c.busy[svc.ID] {
			continue
		}
		have := make(map[netip.Addr]bool)
		for _, m := range w.pools.m[poolKey{svc.Number, false}].Members {
			have[m.Addr] = true
		}
		for _, e := range s.Endpoints {
			if svc.HasBackend(e) && e.SandboxID != "" && !c.busy[e.SandboxID] && !have[e.IPv4.Addr()] {
				c.Errorf("service %s lacks %v", svc.Name, e.IPv4)
			}
		}
	}
	return nil
}

// undo takes the changes of a plan back.
type undo []func()

// keep remembers what a plan has of an object.
func keep[K comparable, V any](u *undo, all map[K]*V, ids ...K) {
	for _, id := range ids {
		was := all[id]
		*u = append(*u, func() {
			if was == nil {
				delete(all, id)
			} else {
				all[id] = was
			}
		})
	}
}

// verb makes a change of these objects, and reverts it if it fails.
func (c *throng) verb(ids []string, do func(u *undo)) {
	c.mu.Lock()
	for _, id := range ids {
		c.busy[id] = true
	}
	var u undo
	do(&u)
	apply := c.w.r.Accept(c.Context(), c.p.snapshot())
	c.mu.Unlock()
	time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond) // others that are accepted later may be applied first
	err := apply()
	c.mu.Lock()
	if err != nil {
		if !c.faults {
			c.Error(err)
		}
		for _, back := range slices.Backward(u) {
			back()
		}
		apply = c.w.r.Accept(context.WithoutCancel(c.Context()), c.p.snapshot()) // as txn.State reverts
		c.mu.Unlock()
		_ = apply() // what fails again is repaired
		c.mu.Lock()
	}
	for _, id := range ids {
		delete(c.busy, id)
	}
	c.mu.Unlock()
}

// anyVerb makes a random change of what belongs to a client, in networks that it shares with the others.
func (c *throng) anyVerb(rnd *rand.Rand, client int) {
	p, s := c.p, &c.p.s
	name, own := fmt.Sprint("box", client), fmt.Sprint("own", client)
	shared := func() *model.Network { return s.Networks[id(fmt.Sprint("net", rnd.IntN(4)))] }
	endpoints := func(of string) (list []*model.Endpoint) {
		for _, e := range s.Endpoints {
			if e.SandboxID == id(of) {
				list = append(list, e)
			}
		}
		return list
	}
	port := uint32(1 + client)
	removeEndpoint := func(u *undo, e *model.Endpoint) {
		keep(u, s.Endpoints, e.ID)
		delete(s.Endpoints, e.ID)
		if b := s.Publishes[port]; b != nil && b.EndpointID == e.ID {
			keep(u, s.Publishes, port)
			delete(s.Publishes, port)
		}
	}
	connect := func(u *undo, b *model.Sandbox, n *model.Network) {
		if eid := id(b.Name + n.Name); s.Endpoints[eid] == nil {
			keep(u, s.Endpoints, eid)
			p.endpoint(b, n).Aliases = []string{fmt.Sprint("web", rnd.IntN(4))}
		}
	}
	removeSandbox := func(u *undo, name string) {
		for _, e := range endpoints(name) {
			removeEndpoint(u, e)
		}
		keep(u, s.Sandboxes, id(name))
		delete(s.Sandboxes, id(name))
	}
	switch rnd.IntN(8) {
	case 0, 1: // a sandbox
		c.verb([]string{id(name)}, func(u *undo) {
			if s.Sandboxes[id(name)] != nil {
				removeSandbox(u, name)
				return
			}
			keep(u, s.Sandboxes, id(name))
			b := p.sandbox(name)
			connect(u, b, shared())
			connect(u, b, shared())
		})
	case 2, 3: // an endpoint, its aliases, its MAC, or a port of it
		c.verb([]string{id(name)}, func(u *undo) {
			b, all := s.Sandboxes[id(name)], endpoints(name)
			if b == nil {
				return
			}
			if len(all) == 0 {
				connect(u, b, shared())
				return
			}
			e := all[rnd.IntN(len(all))]
			now := *e
			switch rnd.IntN(5) {
			case 0:
				removeEndpoint(u, e)
			case 1:
				connect(u, b, shared())
			case 2:
				keep(u, s.Publishes, port)
				p.publish(port, e, netip.Addr{}, uint16(10*port), 2)
			case 3:
				now.MAC[4] ^= 0x40
			case 4:
				now.Aliases = []string{fmt.Sprint("web", rnd.IntN(4)), "other"}
			}
			if s.Endpoints[e.ID] != nil {
				keep(u, s.Endpoints, e.ID)
				s.Endpoints[e.ID] = &now
			}
		})
	case 4: // a network that comes and goes with its only sandbox
		c.verb([]string{id(own), id(own + "box")}, func(u *undo) {
			keep(u, s.Networks, id(own))
			if s.Networks[id(own)] != nil {
				removeSandbox(u, own+"box")
				delete(s.Networks, id(own))
				return
			}
			keep(u, s.Sandboxes, id(own+"box"))
			connect(u, p.sandbox(own+"box"), p.network(own, byte(20+client)))
		})
	case 5: // another gateway and MTU of that
		c.verb([]string{id(own), id(own + "box")}, func(u *undo) {
			n := s.Networks[id(own)]
			if n == nil {
				return
			}
			keep(u, s.Networks, n.ID)
			now := *n
			now.MTU, now.Subnets = 1300+rnd.IntN(100), slices.Clone(n.Subnets)
			now.Subnets[0].Gateway = netip.AddrFrom4([4]byte{10, byte(n.Index), byte(rnd.IntN(9)), 1})
			s.Networks[n.ID] = &now
		})
	case 6: // a service
		c.mu.Lock()
		n := shared()
		c.mu.Unlock()
		svc := id(fmt.Sprint("svc", client, n.Name))
		c.verb([]string{svc}, func(u *undo) {
			keep(u, s.Services, svc)
			if s.Services[svc] != nil {
				delete(s.Services, svc)
				return
			}
			s.Services[svc] = &model.Service{
				ID: svc, Name: fmt.Sprint("web", client), NetworkID: n.ID, Number: 100 + 10*uint32(client) + n.Index,
				IPv4: netip.AddrFrom4([4]byte{10, byte(n.Index), 9, byte(client)}), MAC: model.MAC{2, 0x42, 10, byte(n.Index), 9, byte(client)},
			}
		})
	case 7: // an engine's sandbox; its reservation and names, which some snapshot brings along
		c.mu.Lock()
		n := shared()
		if s.Sandboxes[id(name+"engine")] == nil {
			p.endpoint(&model.Sandbox{Name: name + "engine"}, n)
		}
		c.mu.Unlock()
		c.verb([]string{id(name + "engine")}, func(u *undo) {
			if s.Sandboxes[id(name+"engine")] != nil {
				removeSandbox(u, name+"engine")
			} else {
				keep(u, s.Sandboxes, id(name+"engine"))
				keep(u, s.Endpoints, id(name+"engine"+n.Name))
				p.engineSandbox(name+"engine", n)
			}
		})
		c.mu.Lock()
		renamed := *shared()
		renamed.Engine = fmt.Sprint(rnd.Uint32())
		s.Networks[renamed.ID] = &renamed
		if b := s.Sandboxes[id(name)]; b != nil {
			now := *b
			now.PID++
			s.Sandboxes[b.ID] = &now
		}
		c.mu.Unlock()
	}
}
