// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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
	for i := range uint32(portWords) {
		var word uint64
		must(tb, w.m["fl_portbits"].Lookup(i, &word))
		for bit := range uint16(64) {
			if word>>bit&1 == 1 {
				got[[2]uint16{uint16(i / portBank), uint16(i%portBank)*64 + bit}] = true
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
	if _, d, err := w.Publishes.Sync(nil); d != 2 || err != nil {
		t.Errorf("Sync to nothing: %d deleted, %v", d, err)
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

// Random changes: the bits always match the entries.
func TestPublishesBitsAgainstModel(t *testing.T) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(3, 4))
	random := func() []Publish {
		var ps []Publish
		for range rng.IntN(40) {
			host := []string{"0.0.0.0", "::", "192.0.2.1"}[rng.IntN(3)]
			ps = append(ps, publish(host, uint16(rng.IntN(8)), []uint8{tcp, udp, 132}[rng.IntN(3)]))
		}
		return ps
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
		want := make(map[[2]uint16]bool)
		for _, p := range w.Publishes.List() {
			bank := uint16(0)
			if p.Proto == udp {
				bank = 1
			}
			want[[2]uint16{bank, p.Port}] = true
		}
		if diff := cmp.Diff(want, w.setBits(t)); diff != "" {
			t.Fatalf("step %d: bits (-want +got):\n%s", step, diff)
		}
	}
}

// Entries that do not fit leave nothing behind: neither entries of a batch that was partly
// written, nor bits.
func TestPublishesFull(t *testing.T) {
	specs := mustSpecs(t)
	specs["fl_publish"].MaxEntries = 24
	w := &world{m: map[string]*ebpf.Map{"fl_publish": mustMap(t, specs["fl_publish"]), "fl_portbits": mustMap(t, specs["fl_portbits"])}}
	table, err := newPublishes(w.m["fl_publish"], w.m["fl_portbits"])
	must(t, err)
	var old, more []Publish
	for i := range uint16(20) {
		old, more = append(old, publish("0.0.0.0", 100+i, tcp)), append(more, publish("0.0.0.0", 1000+64*i, tcp))
	}
	_, err = table.PutAll(old)
	must(t, err)
	_, err = table.PutAll(more)
	if full := (*FullError)(nil); !errors.As(err, &full) || full.Table != "fl_publish" || full.Max != 24 {
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
