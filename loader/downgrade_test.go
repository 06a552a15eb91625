// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/downgrade"
)

// earlierBuild returns a file with an embedded BPF object of commit 587769b, like the binary of
// that commit.
func earlierBuild(t *testing.T) string {
	t.Helper()
	return buildWith(t, "testdata/587769b.gc.o")
}

// buildWith returns a file with an embedded BPF object.
func buildWith(t *testing.T, path string) string {
	t.Helper()
	object, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "fairlead")
	if err := os.WriteFile(binary, slices.Concat([]byte("\x7fELF, not really"), object, []byte("more")), 0o755); err != nil {
		t.Fatal(err)
	}
	return binary
}

// downgrading is a running Downgrade.
type downgrading struct {
	stop  context.CancelFunc
	ready chan []string
	done  chan error
}

func startDowngrade(t *testing.T, w *world, to string, wait ...func(context.Context) error) *downgrading {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	d := &downgrading{stop: cancel, ready: make(chan []string, 1), done: make(chan error, 1)}
	cfg := downgrade.Config{BPFDir: w.cfg.BPFDir, To: to, Ready: func(names []string) { d.ready <- names }, Log: w.cfg.Log}
	if len(wait) > 0 {
		cfg.Wait = wait[0]
	}
	go func() { d.done <- downgrade.Run(ctx, cfg) }()
	return d
}

// wait returns the argument of the call to Ready.
func (d *downgrading) wait(t *testing.T) []string {
	t.Helper()
	select {
	case names := <-d.ready:
		return names
	case err := <-d.done:
		d.done <- err
		select {
		case names := <-d.ready: // before the end
			return names
		default:
			t.Fatalf("Downgrade: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Downgrade is not ready")
	}
	return nil
}

func pinnedMap(t *testing.T, w *world, name string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(w.cfg.BPFDir, bpffs.MapsDir, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func putFlow(t *testing.T, m *ebpf.Map, port uint16) {
	t.Helper()
	k, _ := oldFlow(port)
	if err := m.Put(k, newFlow(port)); err != nil {
		t.Fatal(err)
	}
}

// The earlier build finds all flows, including those that begin before it has replaced all
// programs, and tables that it does not know are removed.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	putFlow(t, d.tables.Maps[bpf.TCMapFlCt], 1)
	run := startDowngrade(t, w, earlierBuild(t))
	if got := run.wait(t); !slices.Contains(got, bpf.TCMapFlCt) || !slices.Contains(got, bpf.TCMapFlCtNew) {
		t.Errorf("converted %q", got)
	}
	putFlow(t, d.tables.Maps[bpf.TCMapFlCt], 2)
	earlier := filepath.Join(w.cfg.BPFDir, bpffs.ProgsPrefix+"earlier")
	if err := os.Mkdir(earlier, 0o700); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for used := int64(0); used < 1<<30; time.Sleep(time.Millisecond) {
		if err := d.tables.Maps[bpf.TCMapFlCtUsed].Lookup(uint32(0), &used); err != nil || time.Now().After(deadline) {
			t.Fatalf("new connections are still possible: %d, %v", used, err)
		}
	}
	putFlow(t, d.tables.Maps[bpf.TCMapFlCtNew], 3)
	if err := os.RemoveAll(d.progsDir()); err != nil {
		t.Fatal(err)
	}
	if err := <-run.done; err != nil {
		t.Fatalf("Downgrade: %v", err)
	}
	for port, name := range map[uint16]string{1: bpf.TCMapFlCt, 2: bpf.TCMapFlCt, 3: bpf.TCMapFlCtNew} {
		k, want := oldFlow(port)
		var got oldEntry
		if err := pinnedMap(t, w, name).Lookup(k, &got); err != nil || got != want {
			t.Errorf("%s, flow %d: %+v, %v", name, port, got, err)
		}
	}
	if left := w.entries(bpffs.MapsDir); slices.Contains(left, bpf.TCMapFlCtUsed) {
		t.Errorf("tables that the earlier build does not know are left: %q", left)
	}
}

// If the earlier build does not start, nothing changes.
func TestDowngradeInterrupted(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	_, before := w.ids(d)
	run := startDowngrade(t, w, earlierBuild(t))
	run.wait(t)
	run.stop()
	if err := <-run.done; err == nil || !strings.Contains(err.Error(), "did not start; the tables are as they were") {
		t.Errorf("Downgrade: %v", err)
	}
	again := w.open()
	if _, after := w.ids(again); !again.Adopted() || after[bpf.TCMapFlCt] != before[bpf.TCMapFlCt] {
		t.Errorf("tables before: %v, after: %v", before, after)
	}
}

// The next downgrade continues or undoes one that was killed.
func TestDowngradeAgain(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	_, before := w.ids(d)
	pinOther(t, w, false) // the programs still write to the tables that were pinned before
	putFlow(t, d.tables.Maps[bpf.TCMapFlCt], 1)
	run := startDowngrade(t, w, earlierBuild(t))
	if got := run.wait(t); !slices.Contains(got, bpf.TCMapFlCt) {
		t.Errorf("converted %q", got)
	}
	k, want := oldFlow(1)
	var got oldEntry
	if err := pinnedMap(t, w, bpf.TCMapFlCt).Lookup(k, &got); err != nil || got != want {
		t.Errorf("flow: %+v, %v", got, err)
	}
	run.stop()
	if err := <-run.done; err == nil {
		t.Error("Downgrade succeeded without another build")
	}
	if _, after := w.ids(w.open()); after[bpf.TCMapFlCt] != before[bpf.TCMapFlCt] {
		t.Errorf("tables before: %v, after: %v", before, after)
	}
}

// A daemon of this build that starts instead of the earlier one takes the flows back.
func TestDowngradeTakenBack(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	run := startDowngrade(t, w, earlierBuild(t))
	run.wait(t)
	putFlow(t, d.tables.Maps[bpf.TCMapFlCt], 1)
	again := w.open()
	if err := again.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-run.done; err == nil || !strings.Contains(err.Error(), "a build other than") {
		t.Errorf("Downgrade: %v", err)
	}
}

// If the flow tables fit, tables that the other build does not know are removed once no daemon of this build can restore
// them: the other build would leave them behind. A daemon of this build that starts creates them again.
func TestDowngradeSameFlows(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	_, before := w.ids(d)
	waited := false
	run := startDowngrade(t, w, buildWith(t, "../bpf/gc_bpfel.o"), func(context.Context) error { // without fl_service
		waited = slices.Contains(w.entries(bpffs.MapsDir), bpf.TCMapFlService)
		return nil
	})
	if got := run.wait(t); len(got) > 0 {
		t.Errorf("converted %q", got)
	}
	if err := <-run.done; err != nil {
		t.Fatal(err)
	}
	if !waited {
		t.Error("tables were removed while a daemon could restore them")
	}
	if left := w.entries(bpffs.MapsDir); slices.Contains(left, bpf.TCMapFlService) || !slices.Contains(left, bpf.TCMapFlCt) {
		t.Errorf("pinned tables: %q", left)
	}
	again := w.open()
	if _, after := w.ids(again); after[bpf.TCMapFlCt] != before[bpf.TCMapFlCt] || after[bpf.TCMapFlService] == before[bpf.TCMapFlService] {
		t.Errorf("tables before: %v, after: %v", before, after)
	}
}

func TestDowngradeRefused(t *testing.T) {
	w := newWorld(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		earlierBuild(t): "no datapath is in",
		"/bin/true":     "it is not fairlead",
		"/nowhere":      "read the other build",
	} {
		if err := <-startDowngrade(t, w, to).done; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("to %s: %v, want %q", to, err, want)
		}
	}
	d := w.open() // the same objects are in this test
	_, before := w.ids(d)
	run := startDowngrade(t, w, self)
	if names := run.wait(t); len(names) > 0 {
		t.Errorf("to the same build %q were converted", names)
	}
	if err := <-run.done; err != nil {
		t.Errorf("to the same build: %v", err)
	}
	if _, after := w.ids(w.open()); after[bpf.TCMapFlCt] != before[bpf.TCMapFlCt] {
		t.Error("a downgrade to the same build replaced tables")
	}
}
