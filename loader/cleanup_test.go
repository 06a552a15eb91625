// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

func TestCleanup(t *testing.T) {
	w := newWorld(t)
	if err := Cleanup(w.cfg.BPFDir, nil); err != nil {
		t.Errorf("Cleanup of nothing: %v", err)
	}
	d := w.open()
	a := w.ifindex("a")
	for _, h := range []Hook{FromEndpoint, ToUplink} {
		if _, err := d.Attach(a, h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.AttachCgroup(); err != nil {
		t.Fatal(err)
	}
	progs, tables := w.ids(d)
	pinFormer(t, w) // by a daemon that was killed before Commit
	d.Close()
	if err := Cleanup(w.cfg.BPFDir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.cfg.BPFDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	// The kernel frees objects a moment after the last reference to them.
	deadline := time.Now().Add(5 * time.Second)
	for left := 1; left > 0; time.Sleep(10 * time.Millisecond) {
		left = 0
		for _, id := range progs {
			if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
				p.Close()
				left++
			}
		}
		for _, id := range tables {
			if m, err := ebpf.NewMapFromID(ebpf.MapID(id)); err == nil {
				m.Close()
				left++
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d programs and maps are left in the kernel", left)
		}
	}
	if err := Cleanup(w.cfg.BPFDir, nil); err != nil {
		t.Errorf("second Cleanup: %v", err)
	}
}

// Cleanup keeps objects that are not ours, even in our directory.
func TestCleanupLeavesOthers(t *testing.T) {
	w := newWorld(t)
	w.open().Close()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	foreign := filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, "foreign")
	if err := m.Pin(foreign); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(w.cfg.BPFDir, nil); err == nil {
		t.Error("Cleanup removed a directory with somebody else's map")
	}
	if got := w.entries(bpffs.MapsDir); !cmp.Equal(got, []string{"foreign"}) {
		t.Errorf("left: %v, want the foreign map alone", got)
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
}
