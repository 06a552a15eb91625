// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/portbits"
	"github.com/fairlead-net/fairlead/maps/table"
)

const tcp, udp = 6, 17

func publish(host string, port uint16, proto uint8) Publish {
	return Publish{
		HostIP: addr(host), Port: port, Proto: proto,
		Backend: addr("192.0.2.2"), BackendPort: 80, IfIndex: 7, Net: 3, ID: 1,
	}
}

// setBits reads the ports that have a bit in the kernel.
func (w *world) setBits(tb testing.TB) map[[2]uint16]bool {
	tb.Helper()
	got := make(map[[2]uint16]bool)
	for i := range uint32(portbits.NumWords) {
		var word uint64
		must(tb, w.m["fl_portbits"].Lookup(i, &word))
		for bit := range uint16(64) {
			if word>>bit&1 == 1 {
				got[[2]uint16{uint16(i / portbits.Bank), uint16(i%portbits.Bank)*64 + bit}] = true
			}
		}
	}
	return got
}

func TestPublishes(t *testing.T) {
	w := newWorld(t)
	any4, any6, one := publish("0.0.0.0", 8080, tcp), publish("::", 8080, tcp), publish("192.0.2.1", 65535, udp)
	for _, p := range []Publish{any4, any6, one} {
		must(t, put(w.Publishes.Put(p)))
	}
	if again, err := w.Publishes.Put(any4); again || err != nil {
		t.Errorf("Put of the same = %v, %v", again, err)
	}
	both := map[[2]uint16]bool{{0, 8080}: true, {1, 65535}: true}
	if diff := cmp.Diff(both, w.setBits(t)); diff != "" {
		t.Errorf("bits (-want +got):\n%s", diff)
	}
	must(t, w.Publishes.Refresh())
	sorted := cmpopts.SortSlices(func(a, b Publish) bool { return a.String() < b.String() })
	if diff := cmp.Diff([]Publish{any4, any6, one}, w.Publishes.List(), equateAddrs, sorted); diff != "" {
		t.Errorf("publishes (-want +got):\n%s", diff)
	}
	must(t, put(w.Publishes.Delete(netip.IPv4Unspecified(), 8080, tcp)))
	if diff := cmp.Diff(both, w.setBits(t)); diff != "" {
		t.Errorf("bits while the port has an entry left (-want +got):\n%s", diff)
	}
	must(t, put(w.Publishes.Delete(netip.IPv6Unspecified(), 8080, tcp)))
	if diff := cmp.Diff(map[[2]uint16]bool{{1, 65535}: true}, w.setBits(t)); diff != "" {
		t.Errorf("bits after the port's last entry (-want +got):\n%s", diff)
	}
	if ok, err := w.Publishes.Delete(netip.IPv6Unspecified(), 8080, tcp); ok || err != nil {
		t.Errorf("Delete of an absent one = %v, %v", ok, err)
	}
}

// A port of a backend's own address does not affect that port of the host. If it is published twice, one
// of them stands for both.
func TestDirectPublishes(t *testing.T) {
	w := newWorld(t)
	direct := func(id uint32) Publish {
		return Publish{HostIP: addr("192.0.2.2"), Port: 80, Proto: tcp, Backend: addr("192.0.2.2"), BackendPort: 80, IfIndex: 7, Net: 3, ID: id, Direct: true}
	}
	expect := func(when string, want ...Publish) {
		t.Helper()
		must(t, w.Publishes.Refresh())
		if diff := cmp.Diff(want, w.Publishes.List(), equateAddrs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		if bits := w.setBits(t); len(bits) > 0 {
			t.Errorf("%s: bits %v", when, bits)
		}
		if n := w.Publishes.backends.Len(); n != len(want) {
			t.Errorf("%s: %d backends", when, n)
		}
	}
	for _, list := range [][]Publish{{direct(2), direct(1)}, {direct(1), direct(2)}} {
		_, err := w.Publishes.PutAll(list)
		must(t, err)
		expect("published twice", direct(1))
		if written, deleted, err := w.Publishes.Sync(list); written+deleted != 0 || err != nil {
			t.Errorf("Sync of the same = %d, %d, %v", written, deleted, err)
		}
	}
	limited := direct(3)
	limited.Limited = true
	for _, list := range [][]Publish{{direct(1), limited}, {limited, direct(1)}} {
		_, err := w.Publishes.PutAll(list)
		must(t, err)
		expect("published twice, once for some clients", limited)
	}
	must(t, put(w.Publishes.Put(direct(2))))
	expect("one published no more", direct(2))
	must(t, put(w.Publishes.Delete(addr("192.0.2.2"), 80, tcp)))
	expect("none", make([]Publish, 0)...)
}

func TestPublishesSync(t *testing.T) {
	w := newWorld(t)
	a, b := publish("0.0.0.0", 80, tcp), publish("0.0.0.0", 81, udp)
	must(t, put(w.Publishes.Put(a)))
	// Another process sets a bit that has no entry, and clears one that has.
	must(t, w.m["fl_portbits"].Put(uint32(9), uint64(1)), w.m["fl_portbits"].Put(uint32(1), uint64(0)))
	if n, d, err := w.Publishes.Sync([]Publish{a, b}); n != 4 || d != 0 || err != nil {
		t.Errorf("Sync = %d, %d, %v; want one entry and three words written", n, d, err)
	}
	if diff := cmp.Diff(map[[2]uint16]bool{{0, 80}: true, {1, 81}: true}, w.setBits(t)); diff != "" {
		t.Errorf("bits (-want +got):\n%s", diff)
	}
	if n, d, err := w.Publishes.Sync([]Publish{a, b}); n != 0 || d != 0 || err != nil {
		t.Errorf("second Sync = %d, %d, %v", n, d, err)
	}
	if _, d, err := w.Publishes.Sync(nil); d != 3 || err != nil {
		t.Errorf("Sync to nothing: %d deleted, %v; want two ports and their backend", d, err)
	}
	if got := w.setBits(t); len(got) != 0 {
		t.Errorf("bits left over: %v", got)
	}
}

func TestPublishesVerify(t *testing.T) {
	w := newWorld(t)
	must(t, put(w.Publishes.Put(publish("0.0.0.0", 80, tcp))))
	if n, err := w.Publishes.Verify(); n != 0 || err != nil {
		t.Errorf("Verify = %d, %v; nothing was changed", n, err)
	}
	// Another process sets a bit that has no entry, and clears one that has.
	must(t, w.m["fl_portbits"].Put(uint32(9), uint64(1)), w.m["fl_portbits"].Put(uint32(1), uint64(0)))
	if n, err := w.Publishes.Verify(); n != 2 || err != nil {
		t.Errorf("Verify = %d, %v; want two words written", n, err)
	}
	if diff := cmp.Diff(map[[2]uint16]bool{{0, 80}: true}, w.setBits(t)); diff != "" {
		t.Errorf("bits (-want +got):\n%s", diff)
	}
}

// Random changes: bits and backends always match the entries.
func TestPublishesAgainstModel(t *testing.T) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(3, 4))
	random := func() []Publish {
		ps := make(map[bpf.TCServiceKey]Publish)
		for range rng.IntN(40) {
			host := []string{"0.0.0.0", "::", "192.0.2.1"}[rng.IntN(3)]
			p := publish(host, uint16(rng.IntN(8)), []uint8{tcp, udp, 132}[rng.IntN(3)])
			p.ID = rng.Uint32N(5)
			ps[p.key()] = p
		}
		return slices.Collect(maps.Values(ps))
	}
	for step := range 200 {
		var err error
		switch rng.IntN(3) {
		case 0:
			_, err = w.Publishes.PutAll(random())
		case 1:
			_, err = w.Publishes.DeleteAll(random())
		case 2:
			_, _, err = w.Publishes.Sync(random())
		}
		must(t, err)
		want, backends := make(map[[2]uint16]bool), make(map[[2]uint32]string)
		for _, p := range w.Publishes.List() {
			bank := uint16(0)
			if p.Proto == udp {
				bank = 1
			}
			want[[2]uint16{bank, p.Port}] = true
			backends[[2]uint32{p.ID, uint32(p.service().First)}] = p.Backend.String()
		}
		if diff := cmp.Diff(backends, w.backends(t)); diff != "" {
			t.Fatalf("step %d: backends (-want +got):\n%s", step, diff)
		}
		if diff := cmp.Diff(want, w.setBits(t)); diff != "" {
			t.Fatalf("step %d: bits (-want +got):\n%s", step, diff)
		}
	}
}

// backends returns the addresses in fl_backend, by service and slot.
func (w *world) backends(tb testing.TB) map[[2]uint32]string {
	tb.Helper()
	got := make(map[[2]uint32]string)
	must(tb, table.ReadAll(w.m["fl_backend"], func(k bpf.TCBackendKey, b bpf.TCBackend) bool {
		got[[2]uint32{k.Service, k.Slot}] = b.Addr.Addr().String()
		return true
	}))
	return got
}

// All ports of a range share a backend of each family, which is there as long as any of them.
func TestBackends(t *testing.T) {
	w := newWorld(t)
	expect := func(what string, want map[[2]uint32]string) {
		t.Helper()
		if diff := cmp.Diff(want, w.backends(t)); diff != "" {
			t.Errorf("backends %s (-want +got):\n%s", what, diff)
		}
	}
	var ps []Publish
	for i := range uint16(40) {
		p4, p6 := publish("0.0.0.0", 8000+i, tcp), publish("::", 8000+i, tcp)
		p4.BackendPort, p6.BackendPort, p6.Backend = 80+i, 80+i, addr("2001:db8::2")
		ps = append(ps, p4, p6)
	}
	if n, err := w.Publishes.PutAll(ps); n != 82 || err != nil {
		t.Errorf("PutAll = %d, %v; want 80 ports and 2 backends", n, err)
	}
	both := map[[2]uint32]string{{1, 0}: "192.0.2.2", {1, firstSlot6}: "2001:db8::2"}
	expect("of a range", both)
	sorted := cmpopts.SortSlices(func(a, b Publish) bool { return a.String() < b.String() })
	if diff := cmp.Diff(ps, w.Publishes.List(), equateAddrs, sorted); diff != "" {
		t.Errorf("publishes (-want +got):\n%s", diff)
	}
	for i := range ps {
		ps[i].IfIndex = 8 // the device was created again
	}
	if n, err := w.Publishes.PutAll(ps); n != 2 || err != nil {
		t.Errorf("PutAll with another device = %d, %v; want 2 backends written", n, err)
	}
	other := ps[0]
	other.ID, other.Backend, other.Node = 2, addr("192.0.2.3"), 9
	must(t, put(w.Publishes.Put(other)))
	both[[2]uint32{2, 0}] = "192.0.2.3"
	expect("while another publish has one of the ports", both)
	if n, err := w.Publishes.DeleteAll(ps[1:]); n != 79 || err != nil {
		t.Errorf("DeleteAll = %d, %v", n, err)
	}
	expect("after the range", map[[2]uint32]string{{2, 0}: "192.0.2.3"})
	if diff := cmp.Diff([]Publish{other}, w.Publishes.List(), equateAddrs); diff != "" {
		t.Errorf("publishes (-want +got):\n%s", diff)
	}
	must(t, put(w.Publishes.Put(ps[0])))
	expect("after the port has its first backend again", map[[2]uint32]string{{1, 0}: "192.0.2.2"})
	must(t, put(w.Publishes.Delete(ps[0].HostIP, ps[0].Port, tcp)))
	expect("at the end", map[[2]uint32]string{})
}

// What another process did to either table is undone, in large tables step by step.
func TestPublishesVerifySome(t *testing.T) {
	for _, count := range []int{10, 3000} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			w := newWorld(t)
			var ps []Publish
			for i := range count {
				p := publish("0.0.0.0", uint16(1000+i), tcp)
				p.ID = uint32(i / 2)
				ps = append(ps, p)
			}
			_, err := w.Publishes.PutAll(ps)
			must(t, err)
			round := func(want int) {
				t.Helper()
				all, more := 0, true
				for range 20 {
					var n int
					var err error
					n, more, err = w.Publishes.VerifySome()
					must(t, err)
					if all += n; !more {
						break
					}
				}
				if more || all != want {
					t.Errorf("a round restores %d, want %d; it ends: %t", all, want, !more)
				}
			}
			round(0)
			key, b := bpf.TCBackendKey{Service: 3}, bpf.TCBackend{Net: 77}
			must(t, w.m["fl_backend"].Put(key, b), w.m["fl_service"].Delete(ps[9].key()))
			round(2)
			round(0)
			must(t, w.Publishes.Refresh())
			sorted := cmpopts.SortSlices(func(a, b Publish) bool { return a.String() < b.String() })
			if diff := cmp.Diff(ps, w.Publishes.List(), equateAddrs, sorted); diff != "" {
				t.Errorf("publishes (-want +got):\n%s", diff)
			}
		})
	}
}

// Entries that do not fit leave nothing behind: neither entries of a batch that was partly
// written, nor bits.
func TestPublishesFull(t *testing.T) {
	specs := mustSpecs(t)
	specs["fl_service"].MaxEntries = 24
	w := &world{m: make(map[string]*ebpf.Map)}
	for _, name := range []string{"fl_service", "fl_backend", "fl_portbits"} {
		w.m[name] = mustMap(t, specs[name])
	}
	table, err := newPublishes(w.m["fl_service"], w.m["fl_backend"], w.m["fl_portbits"])
	must(t, err)
	var old, more []Publish
	for i := range uint16(20) {
		old, more = append(old, publish("0.0.0.0", 100+i, tcp)), append(more, publish("0.0.0.0", 1000+64*i, tcp))
	}
	_, err = table.PutAll(old)
	must(t, err)
	_, err = table.PutAll(more)
	if full := (*FullError)(nil); !errors.As(err, &full) || full.Table != "fl_service" || full.Max != 24 {
		t.Errorf("PutAll of too many: %v", err)
	}
	if got, want := len(w.setBits(t)), table.Len(); got != want || want != 24 {
		t.Errorf("%d ports have bits, %d entries, want 24", got, want)
	}
	if n, err := table.Verify(); n != 0 || err != nil {
		t.Errorf("Verify = %d, %v; want nothing to restore", n, err)
	}
	_, err = table.DeleteAll(more)
	must(t, err)
	want := make(map[[2]uint16]bool)
	for _, p := range old {
		want[[2]uint16{0, p.Port}] = true
	}
	if diff := cmp.Diff(want, w.setBits(t)); diff != "" {
		t.Errorf("bits (-want +got):\n%s", diff)
	}
	must(t, table.Refresh())
	if table.Len() != len(old) {
		t.Errorf("%d entries are left, want %d", table.Len(), len(old))
	}
}

// A full table of backends refuses another, and keeps none. Sync first deletes those that are no
// longer needed.
func TestBackendsFull(t *testing.T) {
	specs := mustSpecs(t)
	specs["fl_backend"].MaxEntries = 2
	w := &world{m: make(map[string]*ebpf.Map)}
	for _, name := range []string{"fl_service", "fl_backend", "fl_portbits"} {
		w.m[name] = mustMap(t, specs[name])
	}
	table, err := newPublishes(w.m["fl_service"], w.m["fl_backend"], w.m["fl_portbits"])
	must(t, err)
	var ps []Publish
	for i := range uint16(4) {
		p := publish("0.0.0.0", 80+i, tcp)
		p.ID = uint32(i)
		ps = append(ps, p)
	}
	_, err = table.PutAll(ps[:2])
	must(t, err)
	_, err = table.PutAll(ps[2:3])
	if full := (*FullError)(nil); !errors.As(err, &full) || full.Table != "fl_backend" {
		t.Errorf("PutAll of too many: %v", err)
	}
	if got := w.setBits(t); len(got) != 2 || table.Len() != 2 || len(w.backends(t)) != 2 {
		t.Errorf("%d ports have bits, %d entries, %d backends; want 2 of each", len(got), table.Len(), len(w.backends(t)))
	}
	if _, _, err := table.Sync(ps[2:]); err != nil {
		t.Errorf("Sync to others: %v", err)
	}
	want := map[[2]uint32]string{{2, 0}: "192.0.2.2", {3, 0}: "192.0.2.2"}
	if diff := cmp.Diff(want, w.backends(t)); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
}
