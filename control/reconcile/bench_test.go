// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
)

// crowd returns a world with n sandboxes in ten networks, each with a published range of ten
// ports.
func crowd(b *testing.B, n int) (*world, *plan) {
	w := newWorld(b)
	w.log = slog.New(slog.DiscardHandler)
	w.restart()
	p := w.plan()
	var nets []*model.Network
	for i := range byte(10) {
		nets = append(nets, p.network(fmt.Sprintf("net%d", i), 1+i))
	}
	for i := range n {
		e := p.endpoint(p.sandbox(fmt.Sprintf("box%d", i)), nets[i%10])
		host := uint16(2 + i/10)
		e.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(nets[i%10].Index), byte(host >> 8), byte(host)}), 16)
		e.MAC = model.MAC{2, 0x42, 10, byte(nets[i%10].Index), byte(host >> 8), byte(host)}
		e.IPv6 = netip.Prefix{}
		p.publish(uint32(i+1), e, netip.Addr{}, uint16(10000+10*i), 10)
	}
	w.apply(p)
	p.next = 250
	return w, p
}

func BenchmarkConnect(b *testing.B) {
	w, p := crowd(b, 200)
	n := p.s.Networks[id("net0")]
	b.ResetTimer()
	for i := range b.N {
		box := p.sandbox(fmt.Sprintf("new%d", i))
		p.next = 250
		e := p.endpoint(box, n)
		w.apply(p)
		b.StopTimer()
		delete(p.s.Endpoints, e.ID)
		delete(p.s.Sandboxes, box.ID)
		w.apply(p)
		b.StartTimer()
	}
}

func BenchmarkDisconnect(b *testing.B) {
	w, p := crowd(b, 200)
	n := p.s.Networks[id("net0")]
	for i := range b.N {
		b.StopTimer()
		box := p.sandbox(fmt.Sprintf("new%d", i))
		p.next = 250
		e := p.endpoint(box, n)
		w.apply(p)
		b.StartTimer()
		delete(p.s.Endpoints, e.ID)
		delete(p.s.Sandboxes, box.ID)
		w.apply(p)
	}
}

// BenchmarkAdopt measures the first Apply after a restart.
func BenchmarkAdopt(b *testing.B) {
	w, p := crowd(b, 1000)
	b.ResetTimer()
	for range b.N {
		w.restart()
		w.apply(p)
	}
}

// BenchmarkCheck measures what Run does at ticks and after changes.
func BenchmarkCheck(b *testing.B) {
	for name, how := range map[string]check.Thoroughness{"quick": check.Quick, "regular": check.Regular} {
		b.Run(name, func(b *testing.B) {
			w, _ := crowd(b, 1000)
			b.ResetTimer()
			for range b.N {
				if _, err := w.r.host.Check(b.Context(), how); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDiff measures how a pass finds one endpoint that was added to many.
func BenchmarkDiff(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			edit := new(desired.Snapshot).Edit()
			edit.PutNetwork("n", &model.Network{ID: "n", Driver: model.DriverBridge})
			join := func(i int) {
				id := fmt.Sprintf("%064x", i)
				edit.PutSandbox(id, &model.Sandbox{ID: id})
				edit.PutEndpoint(id, &model.Endpoint{ID: id, NetworkID: "n", SandboxID: id})
			}
			for i := range size {
				join(i)
			}
			before := edit.Done()
			join(size)
			after := edit.Done()
			r := New(Config{}, nil, tables.Set{}, nil)
			for b.Loop() {
				p := r.state.Begin(after, device.State{})
				if p.Diff(before); len(p.Endpoints) != 1 {
					b.Fatalf("%d endpoints differ, want 1", len(p.Endpoints))
				}
			}
		})
	}
}
