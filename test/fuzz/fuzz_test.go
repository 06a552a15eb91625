// SPDX-License-Identifier: Apache-2.0

// Package fuzz sends random packets through Fairlead and through the kernel's own bridge, NAT and connection tracking, and
// compares what comes out. docs/fuzzing.md tells how to use it, and explains each difference that is right.
package fuzz

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

var (
	seedFlag      = flag.Uint64("seed", 1, "first seed; 0: by the clock")
	sequencesFlag = flag.Int("sequences", 4000, "how many seeds from the first one; 0: as many as the time allows")
	cacheFlag     = flag.Int("cache-after", 1, "packet of a flow from which on Fairlead caches its path; -1: never")
	timeFlag      = flag.Duration("time", 75*time.Second, "how long to try new sequences")
	showFlag      = flag.Bool("show", false, "show all that comes out")
	recordFlag    = flag.String("record", "", "directory to write a sequence to for each known fault that has none there")
)

func TestMain(m *testing.M) { lab.Main(m) }

// fuzzer has both twins.
type fuzzer struct {
	*lab.Lab
	fairlead, kernel *twin
	barrier          *barrier
	one, outlives    bool           // of the sequence that runs, see difference
	used             map[string]int // how often each rule explained something
}

func newFuzzer(t *testing.T) *fuzzer {
	t.Helper()
	l := lab.New(t, lab.Config{NoDaemon: true, DaemonArgs: []string{"--ct-max", "4096", "--ct-timeout", "udp_stream=30s"}})
	f := &fuzzer{Lab: l, barrier: newBarrier(l), used: map[string]int{}}
	f.fairlead, f.kernel = newFairlead(l), newKernel(l)
	restore, err := onOneProcessor()
	check(l, err)
	l.Cleanup(restore)
	return f
}

func (f *fuzzer) twins() []*twin { return []*twin{f.fairlead, f.kernel} }

// TestRecorded tries the sequences that found a fault once, each in a file with the fault's name. A fault that is not fixed
// must show, and no other difference may.
func TestRecorded(t *testing.T) {
	f := newFuzzer(t)
	paths, err := filepath.Glob("testdata/*.json")
	check(f.Lab, err)
	unseen := map[string]bool{}
	for _, r := range known {
		unseen[r.name] = true
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		check(f.Lab, err)
		var s sequence
		check(f.Lab, json.Unmarshal(b, &s))
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		found, shown := f.run(s)
		switch {
		case len(found) > 0:
			if !f.report(path, s) {
				t.Errorf("%s: not seen again: %v", path, found)
			}
		case unseen[name] && shown != name:
			t.Errorf("%s shows its fault no more: if it is fixed, remove its row from the known ones here and in docs/fuzzing.md", path)
		}
		delete(unseen, name)
	}
	for name := range unseen {
		t.Errorf("no sequence in testdata shows the known fault %s", name)
	}
}

// TestDifferences tries random sequences until the time is over.
func TestDifferences(t *testing.T) {
	f := newFuzzer(t)
	first := *seedFlag
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("from seed %d", first) // a panic would lose it
	began, n, slept, failed, unsteady := time.Now(), 0, 0, 0, 0
	for ; (n < *sequencesFlag || *sequencesFlag == 0) && time.Since(began) < *timeFlag; n++ {
		seed := first + uint64(n)
		s := newGenerator(seed).sequence()
		if slices.ContainsFunc(s.Steps, func(st step) bool { return st.Kind == "time" }) {
			slept++
		}
		found, shown := f.run(s)
		if isKnown(shown) {
			f.record(seed, shown, s)
		}
		if len(found) == 0 {
			continue
		}
		if f.report(fmt.Sprintf("seed %d", seed), s) {
			failed++
		} else {
			f.Logf("seed %d: not seen again: %v", seed, found)
			unsteady++
		}
		if failed == failuresShown {
			break
		}
	}
	if unsteady > 3+n/5000 { // on a busy machine a packet arrives late now and then
		t.Errorf("%d differences were not seen again", unsteady)
	}
	t.Logf("%d sequences from seed %d ran in %v; in %d of them time moved on; %d showed a difference",
		n, first, time.Since(began).Round(time.Second), slept, failed)
	t.Logf("explained: %v", f.used)
	flows, pairs := f.CacheHits()
	t.Logf("%d packets of flows and %d between members took a cached path", flows, pairs)
	if used := flows > 0 && pairs > 0; used != (*cacheFlag > 0) {
		t.Errorf("that is not what -cache-after %d says", *cacheFlag)
	}
}

// failuresShown are enough to look into at once.
const failuresShown = 5

// report minimises a sequence that shows a difference, and fails the test with it. It returns false if
// the difference does not appear every time: then it depends on the moment, and its seed does not help.
func (f *fuzzer) report(name string, s sequence) bool {
	f.Helper()
	differs := func(s sequence) bool { found, _ := f.run(s); return len(found) > 0 }
	if !differs(s) {
		return false
	}
	s = s.minimise(differs)
	for range 3 {
		if !differs(s) {
			return false
		}
	}
	var b strings.Builder
	found, _ := f.run(s)
	for _, d := range found {
		fmt.Fprintf(&b, "  %v\n", d)
	}
	f.Errorf("%s: no rule explains\n%s  in %v", name, b.String(), s)
	return true
}

// record writes down a sequence that shows a known fault, if that is wanted and has not been done.
func (f *fuzzer) record(seed uint64, name string, s sequence) {
	f.Helper()
	path := filepath.Join(*recordFlag, name+".json")
	if _, err := os.Stat(path); *recordFlag == "" || err == nil {
		return
	}
	s = s.minimise(func(s sequence) bool { _, shown := f.run(s); return shown == name })
	check(f.Lab, os.WriteFile(path, []byte(s.String()+"\n"), 0o644))
	f.Logf("seed %d shows %s: %v", seed, name, s)
}

// TestDocumented wants a row in docs/fuzzing.md for each rule and known fault, and none besides.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/fuzzing.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "## What it found") {
			break
		}
		if cells := strings.Split(line, "|"); len(cells) > 3 && !strings.HasPrefix(cells[1], "-") {
			rows[strings.TrimSpace(cells[1])] = true
		}
	}
	for _, r := range slices.Concat(rules, parting, known) {
		if !rows[r.name] {
			t.Errorf("docs/fuzzing.md has no row %q", r.name)
		}
		delete(rows, r.name)
	}
	delete(rows, "rule")
	delete(rows, "fault")
	for name := range rows {
		t.Errorf("docs/fuzzing.md has a row %q that does not exist as a rule", name)
	}
}

func isKnown(name string) bool {
	return slices.ContainsFunc(known, func(r rule) bool { return r.name == name })
}
