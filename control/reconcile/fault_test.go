// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// render describes the state of a world, with device names in place of indices.
func (w *world) render() []string {
	w.tb.Helper()
	ls, err := w.nl.Links()
	if err != nil {
		w.tb.Fatal(err)
	}
	names := make(map[uint32]string)
	var out []string
	for _, l := range ls {
		names[l.Index] = l.Name
		if l.Ours() {
			out = append(out, fmt.Sprintf("device %s %q up=%v", l.Name, l.Alias, l.Up))
		}
	}
	for i, e := range w.endpoints.m {
		out = append(out, fmt.Sprintf("endpoint %s net %d %s flags %x host port %s gateway %s",
			names[i], e.Net, e.IPv4, e.Flags, names[e.HostPortIf], names[e.GatewayIf]))
	}
	for k, e := range w.fdb.m {
		out = append(out, fmt.Sprintf("fdb %v at %s flags %x", k, names[e.IfIndex], e.Flags))
	}
	for k, e := range w.neighbours.m {
		out = append(out, fmt.Sprintf("neighbour %v at %s flags %x", k, names[e.IfIndex], e.Flags))
	}
	for k, e := range w.publishes.m {
		out = append(out, fmt.Sprintf("publish %v to %s:%d at %s", k, e.Backend, e.BackendPort, names[e.IfIndex]))
	}
	for k, e := range w.subnets.m {
		out = append(out, fmt.Sprintf("subnet %v net %d", k, e.Net))
	}
	for a := range w.hostAddrs.m {
		out = append(out, fmt.Sprintf("host address %v", a))
	}
	for at := range w.attached {
		if name, ok := names[uint32(at.IfIndex)]; ok {
			out = append(out, fmt.Sprintf("%v at %s", at.Hook, name))
		}
	}
	slices.Sort(out)
	return out
}

// change makes one random change to the plan.
func (p *plan) change(rnd *rand.Rand) {
	switch rnd.IntN(7) {
	case 0, 1:
		i := byte(1 + rnd.IntN(3))
		name := fmt.Sprintf("net%d", i)
		if old := p.s.Networks[id(name)]; old == nil {
			p.network(name, i)
		} else if !slices.ContainsFunc(slices.Collect(maps.Values(p.s.Endpoints)), func(e *model.Endpoint) bool { return e.NetworkID == old.ID }) {
			delete(p.s.Networks, old.ID)
		}
	case 2, 3:
		name := fmt.Sprintf("box%d", rnd.IntN(3))
		b := p.s.Sandboxes[id(name)]
		if b == nil {
			b = p.sandbox(name)
		}
		for _, n := range p.s.Networks {
			if p.s.Endpoints[id(b.Name+n.Name)] == nil {
				p.endpoint(b, n)
				return
			}
		}
	case 4:
		for _, e := range p.s.Endpoints {
			delete(p.s.Endpoints, e.ID)
			maps.DeleteFunc(p.s.Publishes, func(_ uint32, b *model.Publish) bool { return b.EndpointID == e.ID })
			return
		}
	case 5:
		for _, b := range p.s.Sandboxes {
			if !slices.ContainsFunc(slices.Collect(maps.Values(p.s.Endpoints)), func(e *model.Endpoint) bool { return e.SandboxID == b.ID }) {
				delete(p.s.Sandboxes, b.ID)
				return
			}
		}
	case 6:
		for _, e := range p.s.Endpoints {
			pid := uint32(1 + rnd.IntN(4))
			if p.s.Publishes[pid] != nil {
				delete(p.s.Publishes, pid)
			} else {
				p.publish(pid, e, netip.Addr{}, uint16(100*pid), 3)
			}
			return
		}
	}
}

// TestFaultsAnywhere applies random changes while calls fail at random, reverts after a failure
// as the controller does, and sometimes restarts as after a crash. In the end everything must be
// as if it had been applied at once.
func TestFaultsAnywhere(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(seed), 1))
			w := newWorld(t)
			p := w.plan()
			w.apply(p)
			good := p.s.Clone()
			for range 12 {
				p.change(rnd)
				w.fault = rnd.IntN(30)
				err := w.applySnapshot(p.snapshot())
				w.fault = 0
				switch {
				case rnd.IntN(6) == 0: // a crash; the change is in the store
					good = p.s.Clone()
					w.restart()
					w.apply(p)
				case err != nil: // the controller reverts it
					p.s = good.Clone()
					w.fault = rnd.IntN(60)
					w.applySnapshot(p.snapshot())
					w.fault = 0
				default:
					good = p.s.Clone()
				}
			}
			w.resync()
			got := w.render()

			fresh := newWorldLike(t, w)
			fresh.apply(p)
			want := fresh.render()
			if !slices.Equal(want, got) {
				for _, l := range want {
					if !slices.Contains(got, l) {
						t.Errorf("missing: %s", l)
					}
				}
				for _, l := range got {
					if !slices.Contains(want, l) {
						t.Errorf("unexpected: %s", l)
					}
				}
			}
		})
	}
}

// newWorldLike returns another host for the same plan. It removes the namespaces of the old one,
// since both use the same directory.
func newWorldLike(t *testing.T, old *world) *world {
	for _, b := range old.r.state.Objects.Sandboxes {
		if err := rtnl.RemoveNetNS(b.Want.NetNS); err != nil {
			t.Fatal(err)
		}
	}
	return newWorld(t)
}
