// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/probe"
	"github.com/fairlead-net/fairlead/loader/tables"
)

// oldEntry is struct ct_entry as it was until commit 587769b.
type oldEntry struct {
	Xlat                          bpf.TCTuple
	InIf, OutIf, Expires, Publish uint32
	State, Flags                  uint8
	Net                           uint16
	Created                       uint32
}

// oldLayout returns the definitions of the flow tables with the layout of oldEntry.
func oldLayout(t *testing.T, specs map[string]*ebpf.MapSpec) map[string]*ebpf.MapSpec {
	t.Helper()
	fields := make(map[string]btf.Type)
	now, ok := specs["fl_ct"].Value.(*btf.Struct)
	if !ok {
		t.Fatalf("the values of fl_ct are %v", specs["fl_ct"].Value)
	}
	for _, m := range now.Members {
		fields[m.Name] = m.Type
	}
	fields["flags"] = fields["state"] // 8 bits
	old := &btf.Struct{Name: "ct_entry", Size: 64}
	for _, f := range []struct {
		name   string
		offset uint32
	}{
		{"xlat", 0}, {"in_if", 40}, {"out_if", 44}, {"expires", 48}, {"publish", 52},
		{"state", 56}, {"flags", 57}, {"net", 58}, {"created", 60},
	} {
		old.Members = append(old.Members, btf.Member{Name: f.name, Type: fields[f.name], Offset: btf.Bits(f.offset * 8)})
	}
	all := make(map[string]*ebpf.MapSpec)
	for _, name := range []string{"fl_ct", "fl_ct_new"} {
		m := specs[name].Copy()
		m.Value, m.ValueSize = old, old.Size
		all[name] = m
	}
	return all
}

func oldFlow(port uint16) (bpf.TCTuple, oldEntry) {
	k := bpf.TCTuple{Sport: port, Dport: 80, Proto: 6, Saddr: bpf.TCIp{B: [16]byte{1}}, Daddr: bpf.TCIp{B: [16]byte{2}}}
	x := k
	x.Sport = port + 1
	return k, oldEntry{Xlat: x, InIf: 3, OutIf: 4, Expires: 5 + uint32(port), Publish: 6, State: 2, Flags: 0x85, Net: 4095, Created: 7}
}

// newFlow returns oldFlow(port) in the current layout.
func newFlow(port uint16) bpf.TCCtEntry {
	_, o := oldFlow(port)
	return bpf.TCCtEntry{Xlat: o.Xlat, InIf: o.InIf, OutIf: o.OutIf, Expires: o.Expires, Publish: o.Publish,
		State: o.State, Flags: uint16(o.Flags), Net: o.Net, Created: o.Created}
}

// Flows in the layout before commit 587769b are kept, including those written while the tables are
// replaced. Flows in the current layout are kept when a build with the old layout takes over.
func TestConvertFlows(t *testing.T) {
	w := newWorld(t)
	objs := configured(t, w.cfg, probe.Flags{})
	specs, err := objs.shared()
	if err != nil {
		t.Fatal(err)
	}
	before := oldLayout(t, specs)
	if err := bpffs.MakeDirs(w.cfg.BPFDir); err != nil {
		t.Fatal(err)
	}
	dir, log := filepath.Join(w.cfg.BPFDir, bpffs.MapsDir), slog.New(slog.DiscardHandler)
	open := func(specs map[string]*ebpf.MapSpec) *tables.Tables {
		t.Helper()
		tab, err := tables.Open(dir, specs, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tab.Close)
		return tab
	}
	first := open(before)
	if err := first.Pin(); err != nil {
		t.Fatal(err)
	}
	put := func(table *ebpf.Map, port uint16) {
		t.Helper()
		k, e := oldFlow(port)
		if err := table.Put(k, e); err != nil {
			t.Fatal(err)
		}
	}
	for port := range uint16(300) {
		put(first.Maps["fl_ct"], port)
	}
	put(first.Maps["fl_ct_new"], 1000)

	d := w.open()
	var used uint64
	if err := d.tables.Maps["fl_ct_used"].Lookup(uint32(0), &used); err != nil || used != 300 {
		t.Errorf("the programs count %d entries, %v; want 300", used, err)
	}
	put(first.Maps["fl_ct"], 2000) // by programs that are still attached
	put(first.Maps["fl_ct_new"], 3000)
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.log.String(), "starts empty") {
		t.Errorf("the log says: %s", w.log)
	}
	want := map[string][]uint16{"fl_ct": {0, 1, 299, 2000}, "fl_ct_new": {1000, 3000}}
	for name, ports := range want {
		for _, port := range ports {
			k, _ := oldFlow(port)
			var got bpf.TCCtEntry
			if err := d.tables.Maps[name].Lookup(k, &got); err != nil {
				t.Errorf("%s, flow %d: %v", name, port, err)
			} else if diff := cmp.Diff(newFlow(port), got); diff != "" {
				t.Errorf("%s, flow %d (-want +got):\n%s", name, port, diff)
			}
		}
	}
	d.Close()
	if again := w.open(); !again.Adopted() {
		t.Error("the converted tables were not pinned")
	}

	back := open(before)
	for name, ports := range want {
		for _, port := range ports {
			k, e := oldFlow(port)
			var got oldEntry
			if err := back.Maps[name].Lookup(k, &got); err != nil {
				t.Errorf("%s, flow %d on the way back: %v", name, port, err)
			} else if diff := cmp.Diff(e, got); diff != "" {
				t.Errorf("%s, flow %d on the way back (-want +got):\n%s", name, port, diff)
			}
		}
	}
}

// A table whose BTF is missing or does not match the layout starts empty.
func TestNotConvertible(t *testing.T) {
	w := newWorld(t)
	objs := configured(t, w.cfg, probe.Flags{})
	specs, err := objs.shared()
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(*ebpf.MapSpec){
		func(m *ebpf.MapSpec) { m.Key, m.Value, m.ValueSize = nil, nil, 64 },
		func(m *ebpf.MapSpec) { m.Key, m.KeySize = nil, 8; m.Value = nil },
		func(m *ebpf.MapSpec) { m.Type, m.Flags = ebpf.LRUHash, 0 },
		func(m *ebpf.MapSpec) {
			s := m.Value.(*btf.Struct)
			wide := &btf.Struct{Name: "pair", Size: 8, Members: []btf.Member{{Name: "a", Type: s.Members[1].Type}, {Name: "b", Type: s.Members[1].Type, Offset: 32}}}
			m.Value, m.ValueSize = &btf.Struct{Name: "ct_entry", Size: 8, Members: []btf.Member{{Name: "xlat", Type: wide}}}, 8
		},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			spec := specs["fl_ct"].Copy()
			change(spec)
			m, err := ebpf.NewMap(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if l, err := tables.Convertible(specs["fl_ct"], m); err == nil {
				t.Errorf("convertible: %+v", l)
			}
		})
	}
}

// A daemon that is killed while it replaces tables or hands them over leaves programs that write
// to tables that are not pinned. The next daemon finds their flows, including those that begin
// before it has attached its own programs.
func TestInterruptedReplacement(t *testing.T) {
	for _, fits := range []bool{true, false} {
		t.Run(fmt.Sprintf("pinned tables fit %t", fits), func(t *testing.T) {
			w := newWorld(t)
			first := w.open()
			if err := first.Commit(); err != nil {
				t.Fatal(err)
			}
			live := first.tables.Maps["fl_ct"]
			putFlow(t, live, 1)
			pinOther(t, w, fits)
			next := w.open()
			putFlow(t, live, 2)
			if _, err := next.Attach(w.ifindex("a"), FromEndpoint); err != nil {
				t.Fatal(err)
			}
			putFlow(t, live, 3)
			if err := next.Commit(); err != nil {
				t.Fatal(err)
			}
			for _, port := range []uint16{1, 2, 3} {
				k, _ := oldFlow(port)
				var got bpf.TCCtEntry
				if err := next.tables.Maps["fl_ct"].Lookup(k, &got); err != nil || got != newFlow(port) {
					t.Errorf("flow %d: %+v, %v", port, got, err)
				}
			}
			if err := next.Detach(w.ifindex("a"), FromEndpoint); err != nil {
				t.Error(err)
			}
		})
	}
}

// pinOther pins other flow tables in place of those that the programs write to.
func pinOther(t *testing.T, w *world, fits bool) {
	t.Helper()
	objs := configured(t, w.cfg, probe.Flags{})
	specs, err := objs.shared()
	if err != nil {
		t.Fatal(err)
	}
	if !fits {
		specs = oldLayout(t, specs)
	}
	for _, name := range []string{"fl_ct", "fl_ct_new"} {
		m, err := ebpf.NewMap(specs[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		if err := bpffs.Replace(m, filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// pinFormer pins a table of an earlier build.
func pinFormer(t *testing.T, w *world) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 24, ValueSize: 32, MaxEntries: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, "fl_publish")); err != nil {
		t.Fatal(err)
	}
}

// A table of an earlier build stays until the last program that uses it has been replaced.
func TestFormerTable(t *testing.T) {
	w := newWorld(t)
	if err := bpffs.MakeDirs(w.cfg.BPFDir); err != nil {
		t.Fatal(err)
	}
	pinFormer(t, w)
	d := w.open()
	if pins := w.entries(bpffs.MapsDir); !slices.Contains(pins, "fl_publish") {
		t.Errorf("before Commit the pins are %q", pins)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if pins := w.entries(bpffs.MapsDir); slices.Contains(pins, "fl_publish") || !slices.Contains(pins, "fl_service") {
		t.Errorf("after Commit the pins are %q", pins)
	}
}
