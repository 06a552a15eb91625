// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/probe"
	"github.com/fairlead-net/fairlead/loader/tables"
)

// world is a network namespace and a bpf directory for one test. The code under test
// mounts the bpffs.
type world struct {
	tb     testing.TB
	cfg    Config
	log    *bytes.Buffer
	clsact *fakeClsact
}

// newWorld moves the test's thread to a new network namespace with a veth pair a, b.
// The thread ends with the test.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("loading programs takes root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	w := &world{tb: t, log: new(bytes.Buffer), clsact: &fakeClsact{filters: make(map[filterKey]uint32), qdiscs: make(map[int]bool)}}
	w.ip("link", "add", "name", "a", "type", "veth", "peer", "name", "b")
	w.ip("link", "set", "dev", "a", "up")
	w.cfg = Config{
		BPFDir:       filepath.Join(t.TempDir(), "bpf"),
		CTMax:        1024, // keeps the preallocated table of unconfirmed flows small
		MaxEndpoints: 64, MaxPublishes: 64,
		NetnsCookie: 7,
		Log:         slog.New(slog.NewTextHandler(w.log, nil)),
	}
	t.Cleanup(func() {
		if err := Cleanup(w.cfg.BPFDir, w.clsact); err != nil {
			t.Error(err)
		}
	})
	return w
}

// configured returns the embedded objects with a configuration.
func configured(t *testing.T, cfg Config, have probe.Flags) objects {
	t.Helper()
	o, err := readObjects()
	if err == nil {
		err = o.configure(cfg, have)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (w *world) ip(args ...string) {
	w.tb.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.tb.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (w *world) ifindex(name string) int {
	w.tb.Helper()
	dev, err := net.InterfaceByName(name)
	if err != nil {
		w.tb.Fatal(err)
	}
	return dev.Index
}

// open opens the datapath and closes it when the test ends.
func (w *world) open() *Datapath {
	w.tb.Helper()
	d, err := Open(w.cfg, w.clsact)
	if err != nil {
		w.tb.Fatalf("Open: %+v", err)
	}
	w.tb.Cleanup(func() { d.Close() })
	return d
}

// ids returns the IDs of the programs and the maps.
func (w *world) ids(d *Datapath) (progs, maps map[string]uint32) {
	w.tb.Helper()
	progs, maps = make(map[string]uint32), make(map[string]uint32)
	for name, p := range d.progs {
		info, err := p.Info()
		if err != nil {
			w.tb.Fatal(err)
		}
		id, _ := info.ID()
		progs[name] = uint32(id)
	}
	for name, m := range d.tables.Maps {
		id, err := tables.MapID(m)
		if err != nil {
			w.tb.Fatal(err)
		}
		maps[name] = uint32(id)
	}
	return progs, maps
}

// entries lists a directory below the bpf directory.
func (w *world) entries(sub string) []string {
	w.tb.Helper()
	es, err := os.ReadDir(filepath.Join(w.cfg.BPFDir, sub))
	if err != nil {
		w.tb.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

type filterKey struct {
	ifindex int
	egress  bool
	name    string
}

// fakeClsact records filters, and which devices have the clsact qdisc.
type fakeClsact struct {
	filters map[filterKey]uint32
	qdiscs  map[int]bool
	err     error
}

func (f *fakeClsact) ReplaceFilter(ifindex int, egress bool, name string, fd int, progID uint32) (bool, error) {
	if f.err != nil {
		return false, f.err
	}
	k := filterKey{ifindex, egress, name}
	changed := f.filters[k] != progID
	f.filters[k] = progID
	f.qdiscs[ifindex] = true
	return changed, nil
}

func (f *fakeClsact) RemoveFilter(ifindex int, egress bool, name string, qdisc bool) error {
	k := filterKey{ifindex, egress, name}
	if _, ok := f.filters[k]; !ok {
		return nil
	}
	delete(f.filters, k)
	if qdisc {
		delete(f.qdiscs, ifindex)
	}
	return f.err
}
