// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Pins and directories that others remove are restored, up to the mount, and the next daemon adopts the same programs
// and maps. What is there is left alone.
func TestRestorePins(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	a := w.ifindex("a")
	if _, err := d.Attach(a, FromEndpoint); err != nil {
		t.Fatal(err)
	}
	progs, tables := w.ids(d)
	remove := func(names ...string) func() error {
		return func() error { return os.RemoveAll(filepath.Join(append([]string{w.cfg.BPFDir}, names...)...)) }
	}
	all := len(progs) + len(tables)
	for _, tc := range []struct {
		name   string
		remove func() error
		want   int // pins restored
	}{
		{"nothing", func() error { return nil }, 0},
		{"a map", remove("maps", "fl_ct"), 1},
		{"maps", remove("maps"), len(tables)},
		{"a program", remove(filepath.Base(d.progsDir()), string(FromUplink)), 1},
		{"programs", remove(filepath.Base(d.progsDir())), len(progs)},
		{"links", remove("links"), 0},
		{"the mount", func() error { return unix.Unmount(w.cfg.BPFDir, unix.MNT_DETACH) }, all},
		{"mount and directory", func() error {
			if err := unix.Unmount(w.cfg.BPFDir, unix.MNT_DETACH); err != nil {
				return err
			}
			return os.Remove(w.cfg.BPFDir)
		}, all},
	} {
		if err := tc.remove(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		for _, want := range []int{tc.want, 0} {
			if n, err := d.RestorePins(); n != want || err != nil {
				t.Errorf("%s: RestorePins = %d, %v; want %d", tc.name, n, err, want)
			}
		}
		if _, err := d.Attach(a, FromEndpoint); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got, err := d.Attached(); len(got) != 1 || err != nil || !got[0].Live {
			t.Errorf("%s: attached are %v, %v; want one", tc.name, got, err)
		}
		if tc.want != all {
			continue
		}
		next := w.open()
		nextProgs, nextTables := w.ids(next)
		if !next.Adopted() || !maps.Equal(nextProgs, progs) || !maps.Equal(nextTables, tables) {
			t.Errorf("%s: the next daemon has other programs or maps", tc.name)
		}
		next.Close()
	}
}
