// SPDX-License-Identifier: Apache-2.0

package station

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

var (
	anna  = model.MAC{2, 0, 0, 0, 0, 1}
	ben   = model.MAC{2, 0, 0, 0, 0, 2}
	other = model.MAC{2, 0, 0, 0, 0, 3} // of another program
	group = Group(netip.MustParseAddr("2001:db8::1:ab02:304"))
)

type bench struct {
	*testing.T
	nl  *rtnl.Handle
	dir string
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, nl: rtnltest.New(t), dir: filepath.Join(t.TempDir(), "stations")}
	for _, name := range []string{"one", "two"} {
		if _, err := b.nl.CreateVeth(rtnl.Veth{Name: name, PeerName: name + "p", MTU: 1500}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) index(name string) uint32 {
	b.Helper()
	l, err := b.nl.LinkByName(name)
	if err != nil {
		b.Fatal(err)
	}
	return l.Index
}

// ensure has a device accept MACs, by a new Filters, as after a restart.
func (b *bench) ensure(device string, added int, want ...model.MAC) {
	b.Helper()
	n, err := New(b.nl, b.dir).Ensure(b.index(device), want)
	if err != nil || n != added {
		b.Errorf("Ensure(%s, %v) added %d (%v), want %d", device, want, n, err, added)
	}
}

// accepts checks which of the MACs a device accepts.
func (b *bench) accepts(device string, want ...model.MAC) {
	b.Helper()
	have, err := New(b.nl, b.dir).accepted(b.index(device))
	if err != nil {
		b.Fatal(err)
	}
	for _, mac := range []model.MAC{anna, ben, other, group} {
		if have[mac] != slices.Contains(want, mac) {
			b.Errorf("%s accepts %v: %t", device, mac, have[mac])
		}
	}
}

func (b *bench) records() int {
	b.Helper()
	files, err := os.ReadDir(b.dir)
	if err != nil && !os.IsNotExist(err) {
		b.Fatal(err)
	}
	return len(files)
}

func TestGroup(t *testing.T) {
	if want := (model.MAC{0x33, 0x33, 0xff, 2, 3, 4}); group != want {
		t.Errorf("group %v, want %v", group, want)
	}
}

// A device accepts what is wanted of it, and keeps what others added, whichever daemon does it.
func TestEnsure(t *testing.T) {
	b := newBench(t)
	if err := b.nl.TC().NeighAppend(entry(b.index("one"), other)); err != nil {
		t.Fatal(err)
	}
	b.ensure("one", 2, anna, group, group, other) // two members may share a group
	b.ensure("two", 1, anna)
	b.accepts("one", anna, group, other)
	b.ensure("one", 0, anna, group, other)
	if err := b.nl.TC().NeighDel(entry(b.index("one"), anna)); err != nil {
		t.Fatal(err)
	}
	b.ensure("one", 1, anna, group)
	b.ensure("one", 1, ben)
	b.accepts("one", ben, other)
	b.accepts("two", anna)
	if n := b.records(); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
	b.ensure("one", 0)
	b.accepts("one", other)
}

// What has a record is deleted, also if the entry or the device does not exist any more, or the record is all there is; other
// files and MACs stay.
func TestSweep(t *testing.T) {
	b := newBench(t)
	if err := b.nl.TC().NeighAppend(entry(b.index("one"), other)); err != nil {
		t.Fatal(err)
	}
	b.ensure("one", 2, anna, group)
	b.ensure("two", 1, ben)
	f := New(b.nl, b.dir)
	if err := f.note(4711, ben); err != nil {
		t.Fatal(err)
	}
	if err := f.note(b.index("one"), ben); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep([]uint32{b.index("two")}); err != nil {
		t.Error(err)
	}
	b.accepts("one", other)
	b.accepts("two", ben)
	if n := b.records(); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	if err := f.Clear(); err != nil {
		t.Error(err)
	}
	b.accepts("two")
	if _, err := os.Stat(b.dir); !os.IsNotExist(err) {
		t.Errorf("the directory of the records: %v", err)
	}
	if err := f.Clear(); err != nil {
		t.Errorf("without records: %v", err)
	}
}

func TestErrors(t *testing.T) {
	b := newBench(t)
	f := New(b.nl, b.dir)
	if _, err := f.Ensure(4711, []model.MAC{anna}); err == nil {
		t.Error("a device that does not exist accepts a MAC")
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(nil); err != nil || b.records() < 1 {
		t.Errorf("a file that is not a record: %v, %d files", err, b.records())
	}
	if err := f.Clear(); err == nil {
		t.Error("a directory with files of others is removed")
	}
	f = New(b.nl, "/proc/none")
	if _, err := f.Ensure(b.index("one"), []model.MAC{anna}); err == nil {
		t.Error("a MAC without a record")
	}
	b.accepts("one")
}
