// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/probe"
	"github.com/fairlead-net/fairlead/maps"
)

func TestOpenTwice(t *testing.T) {
	w := newWorld(t)
	first := w.open()
	if first.Adopted() {
		t.Error("adopted programs where there were none")
	}
	progs, tables := w.ids(first)
	if len(progs) != 15 || len(tables) != len(maps.Names()) {
		t.Errorf("%d programs and %d maps", len(progs), len(tables))
	}
	endpoint := maps.Endpoint{IfIndex: 5, Net: 1, IPv4: netip.MustParseAddr("192.0.2.2")}
	if _, err := first.Maps().Endpoints.Put(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := w.open()
	if !second.Adopted() {
		t.Error("loaded programs that were there")
	}
	progs2, tables2 := w.ids(second)
	if diff := cmp.Diff(progs, progs2); diff != "" {
		t.Errorf("program ids (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(tables, tables2); diff != "" {
		t.Errorf("map ids (-first +second):\n%s", diff)
	}
	if again, err := second.Maps().Endpoints.Put(endpoint); again || err != nil {
		t.Errorf("the entry was written a second time: %v, %v", again, err)
	}
}

func TestChangedConfig(t *testing.T) {
	w := newWorld(t)
	first := w.open()
	progs, tables := w.ids(first)
	first.Close()
	w.cfg.Timeouts.established = 7 * time.Hour

	second := w.open()
	progs2, tables2 := w.ids(second)
	for name, id := range progs {
		if progs2[name] == id {
			t.Errorf("program %s was not replaced", name)
		}
	}
	if diff := cmp.Diff(tables, tables2); diff != "" {
		t.Errorf("map ids (-first +second):\n%s", diff)
	}
	if n := progsDirs(w); n != 2 {
		t.Errorf("%d directories of programs before Commit, want 2", n)
	}
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := progsDirs(w); n != 1 {
		t.Errorf("%d directories of programs after Commit, want 1", n)
	}
	second.Close()
	if !w.open().Adopted() {
		t.Error("programs were not adopted after Commit")
	}
}

func progsDirs(w *world) (n int) {
	for _, name := range w.entries(".") {
		if strings.HasPrefix(name, bpffs.ProgsPrefix) {
			n++
		}
	}
	return n
}

// The configuration is written to the read-only data of every object.
func TestConfigure(t *testing.T) {
	cfg := Config{BPFDir: "/x", NetnsCookie: 0x1234567890, SNATPorts: PortRange{1000, 2000}, CTMax: 4096, MaxEndpoints: 10, MaxPublishes: 20}
	cfg.Timeouts.udpStream = 77 * time.Second
	o := configured(t, cfg, probe.Flags{FIBSrc: true})
	get := func(spec *ebpf.CollectionSpec, name string, out any) {
		t.Helper()
		v := spec.Variables[name]
		if v == nil {
			t.Fatalf("no variable %s", name)
		}
		if err := v.Get(out); err != nil {
			t.Fatal(err)
		}
	}
	var cookie uint64
	get(o.sock, "cfg_netns_cookie", &cookie)
	var lo, hi uint16
	get(o.tc, "cfg_snat_min", &lo)
	get(o.tc, "cfg_snat_max", &hi)
	var fib uint8
	get(o.tc, "cfg_fib_src", &fib)
	timeouts := make([]uint32, bpf.TCCtStateCT_STATE_MAX)
	get(o.tc, "cfg_timeout", timeouts)
	if cookie != 0x1234567890 || lo != 1000 || hi != 2000 || fib != 1 {
		t.Errorf("cookie %#x, ports %d-%d, fib %d", cookie, lo, hi, fib)
	}
	if timeouts[bpf.TCCtStateCT_UDP_STREAM] != 77 || timeouts[bpf.TCCtStateCT_ESTABLISHED] != 432000 {
		t.Errorf("timeouts %v: want one changed, the others by default", timeouts)
	}
	shared, err := o.shared()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"fl_ct": 4096, "fl_ct_new": 1024, "fl_endpoint": 10, "fl_neigh": 30, "fl_service": 20, "fl_backend": 20} {
		if got := shared[name].MaxEntries; got != want {
			t.Errorf("%s has %d entries, want %d", name, got, want)
		}
	}
}

// If nf_conntrack cannot be queried, the programs are loaded without the calls.
func TestWithoutConntrack(t *testing.T) {
	w := newWorld(t)
	for _, have := range []bool{true, false} {
		o := configured(t, w.cfg, probe.Flags{Conntrack: have})
		var asked uint8
		if err := o.tc.Variables["cfg_conntrack"].Get(&asked); err != nil {
			t.Fatal(err)
		}
		calls := 0
		for _, p := range o.programs() {
			for _, ins := range p.Instructions {
				if ins.IsKfuncCall() {
					calls++
				}
			}
		}
		if (asked != 0) != have || (calls != 0) != have {
			t.Errorf("conntrack %v: cfg_conntrack is %d, %d calls", have, asked, calls)
		}
		progs, err := o.load(nil)
		if err != nil {
			t.Fatalf("conntrack %v: %v", have, err)
		}
		closeAll(progs)
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // "": fine
	}{
		{"minimal", Config{BPFDir: "/sys/fs/bpf/x"}, ""},
		{"relative", Config{BPFDir: "x"}, "absolute path of a directory of its own (give one below /sys/fs/bpf)"},
		{"root", Config{BPFDir: "/"}, "directory of its own"},
		{"ct-tiny", Config{BPFDir: "/x", CTMax: 1}, "1 entries is too small (want 16 or more)"},
	} {
		tt.cfg.NetnsCookie = 7
		err := tt.cfg.validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A flow table keeps its entries when its size changes, including those written during
// the change, and flows that end then are not kept as established.
func TestResize(t *testing.T) {
	w := newWorld(t)
	first := w.open()
	tuple := func(port uint16) bpf.TCTuple { return bpf.TCTuple{Sport: port, Proto: 6} }
	ct := first.tables.Maps["fl_ct"]
	for port := range uint16(500) {
		if err := ct.Put(tuple(port), bpf.TCCtEntry{Publish: uint32(port)}); err != nil {
			t.Fatal(err)
		}
	}
	flow := func(state bpf.TCCtState) bpf.TCCtEntry { return bpf.TCCtEntry{Publish: 2000, State: uint8(state)} }
	if err := ct.Put(tuple(2000), flow(bpf.TCCtStateCT_ESTABLISHED)); err != nil {
		t.Fatal(err)
	}
	_, tables := w.ids(first)

	w.cfg.CTMax = 2048
	second := w.open()
	_, tables2 := w.ids(second)
	for name, id := range tables {
		resized := name == "fl_ct" || name == "fl_ct_new"
		if (tables2[name] != id) != resized {
			t.Errorf("map %s: id %d became %d", name, id, tables2[name])
		}
	}
	// Programs of the first datapath keep running until they are replaced.
	if err := errors.Join(ct.Put(tuple(1000), bpf.TCCtEntry{Publish: 1000}), ct.Put(tuple(2000), flow(bpf.TCCtStateCT_FIN_WAIT))); err != nil {
		t.Fatal(err)
	}
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{0, 499, 1000} {
		var e bpf.TCCtEntry
		if err := second.tables.Maps["fl_ct"].Lookup(tuple(port), &e); err != nil || e.Publish != uint32(port) {
			t.Errorf("flow %d: %v, %v", port, e.Publish, err)
		}
	}
	var e bpf.TCCtEntry
	if err := second.tables.Maps["fl_ct"].Lookup(tuple(2000), &e); err != nil || e != flow(bpf.TCCtStateCT_FIN_WAIT) {
		t.Errorf("a flow that began to end meanwhile: %+v, %v", e, err)
	}
	first.Close()
	second.Close()
	third := w.open()
	if !third.Adopted() {
		t.Error("programs were loaded again")
	}
	if _, tables3 := w.ids(third); tables3["fl_ct"] != tables2["fl_ct"] {
		t.Error("the new table was not pinned")
	}
}

// The datapath itself removes flows, both entries of each.
func TestRemoveFlows(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	d.Close()
	d = w.open() // adopted programs remove as well as loaded ones
	add := func(port uint16, expires uint32) {
		t.Helper()
		k := bpf.TCTuple{Sport: port, Proto: 6, Saddr: bpf.TCIp{B: [16]byte{1}}, Daddr: bpf.TCIp{B: [16]byte{2}}}
		r := bpf.TCTuple{Dport: port, Proto: 6, Saddr: bpf.TCIp{B: [16]byte{2}}, Daddr: bpf.TCIp{B: [16]byte{1}}}
		err := errors.Join(
			d.tables.Maps["fl_ct"].Put(k, bpf.TCCtEntry{Xlat: k, Expires: expires}),
			d.tables.Maps["fl_ct"].Put(r, bpf.TCCtEntry{Xlat: r, Expires: expires, Flags: uint16(bpf.TCCtFlagCT_F_REPLY)}),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	flows := func() (n int) {
		t.Helper()
		counts, err := d.Maps().Conntrack.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return counts.Confirmed
	}
	now := maps.Now()
	for port := range uint16(300) {
		add(port, now-10)
	}
	add(400, now+100)
	keys, err := d.Maps().Conntrack.Expired(now)
	if err != nil || len(keys) != 300 {
		t.Fatalf("%d expired flows, %v", len(keys), err)
	}
	add(7, now+100) // a packet came in after all
	if n, err := d.Maps().Conntrack.Remove(keys, false); n != 299 || err != nil {
		t.Errorf("Remove = %d, %v; want 299", n, err)
	}
	if n := flows(); n != 4 {
		t.Errorf("%d entries left, want those of two flows", n)
	}
	all := func(maps.Flow) bool { return true }
	if n, err := d.Maps().Conntrack.DeleteWhere(all); n != 2 || err != nil {
		t.Errorf("DeleteWhere = %d, %v; want 2", n, err)
	}
	if n := flows(); n != 0 {
		t.Errorf("%d entries left, want none", n)
	}
}

func TestIncompatibleTable(t *testing.T) {
	w := newWorld(t)
	if err := bpffs.MakeDirs(w.cfg.BPFDir); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, "fl_endpoint")); err != nil {
		t.Fatal(err)
	}
	d := w.open()
	if d.Maps().Endpoints.Len() != 0 {
		t.Error("the new table is not empty")
	}
	if !strings.Contains(w.log.String(), "the layout of a table changed") {
		t.Errorf("nothing in the log: %s", w.log)
	}
	d.Close()
	if !w.open().Adopted() {
		t.Error("the new table was not pinned")
	}
}

// Lost or unfinished pins never result in programs that use maps other than ours.
func TestLostPins(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(w *world, d *Datapath) error
	}{
		{"map", func(w *world, _ *Datapath) error {
			return os.Remove(filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, "fl_fdb"))
		}},
		{"program", func(w *world, d *Datapath) error { return os.Remove(filepath.Join(d.progsDir(), "to_uplink")) }},
		{"programs", func(w *world, d *Datapath) error { return os.RemoveAll(d.progsDir()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			d := w.open()
			d.Close()
			if err := tt.lose(w, d); err != nil {
				t.Fatal(err)
			}
			d = w.open()
			if d.Adopted() {
				t.Error("adopted what is incomplete")
			}
			_, tables := w.ids(d)
			info, err := d.progs["from_endpoint"].Info()
			if err != nil {
				t.Fatal(err)
			}
			used, _ := info.MapIDs()
			ours := make(map[uint32]bool)
			for _, id := range tables {
				ours[id] = true
			}
			n := 0
			for _, id := range used {
				if ours[uint32(id)] {
					n++
				}
			}
			if n == 0 {
				t.Errorf("from_endpoint uses the maps %v, which are not ours", used)
			}
		})
	}
}
