// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// Names that were updated step by step equal those of a server that starts with the snapshot.
func TestNamesFollowChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	p := desiredtest.New()
	n := noNames()
	id := func(kind string) string { return fmt.Sprintf("%s%d", kind, r.IntN(6)) }
	for step := range 2000 {
		for range 1 + r.IntN(3) {
			changeAtRandom(r, p, id)
		}
		n = n.update(p.Snapshot())
		fresh := noNames().update(p.Snapshot())
		if got, want := maps.Collect(n.byName.All()), maps.Collect(fresh.byName.All()); !maps.Equal(got, want) {
			t.Fatalf("step %d: names are %v, want %v", step, got, want)
		}
		if got, want := maps.Collect(n.networks.All()), maps.Collect(fresh.networks.All()); !maps.Equal(got, want) {
			t.Fatalf("step %d: networks are %v, want %v", step, got, want)
		}
	}
}

func changeAtRandom(r *rand.Rand, p desiredtest.Plain, id func(string) string) {
	gone := r.IntN(4) == 0
	switch r.IntN(3) {
	case 0:
		n := &model.Network{ID: id("n")}
		n.Name = n.ID + []string{"", "-Other"}[r.IntN(2)]
		if p.Networks[n.ID] = n; gone {
			delete(p.Networks, n.ID)
		}
	case 1:
		sb := &model.Sandbox{ID: id("s"), Name: id("Name"), Hostname: id("host")}
		if p.Sandboxes[sb.ID] = sb; gone {
			delete(p.Sandboxes, sb.ID)
		}
	case 2:
		ep := &model.Endpoint{ID: id("e"), NetworkID: id("n"), SandboxID: id("s"), Aliases: []string{id("alias"), id("Name")}}
		if p.Endpoints[ep.ID] = ep; gone {
			delete(p.Endpoints, ep.ID)
		}
	}
}

// BenchmarkUpdate measures adding one endpoint, and the first query after it.
func BenchmarkUpdate(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			e := new(desired.Snapshot).Edit()
			e.PutNetwork("n", &model.Network{ID: "n", Name: "net"})
			join := func(i int) {
				id := fmt.Sprintf("%064x", i)
				e.PutSandbox(id, &model.Sandbox{ID: id, Name: fmt.Sprint("box", i)})
				addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				e.PutEndpoint(id, &model.Endpoint{ID: id, NetworkID: "n", SandboxID: id, IPv4: netip.PrefixFrom(addr, 8)})
			}
			for i := range size {
				join(i)
			}
			before := noNames().update(e.Done())
			join(size)
			after := e.Done()
			for b.Loop() {
				if len(before.update(after).at("n", fmt.Sprint("box", size))) != 1 {
					b.Fatal("the name is missing")
				}
			}
		})
	}
}
