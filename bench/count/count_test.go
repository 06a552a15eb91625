// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"runtime"
	"testing"
)

// Fairlead takes as many instructions as the table says, within 1 %: a change shows its cost,
// or its gain, in the commit that makes it.
func TestCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated machines")
	}
	if runtime.GOARCH != "amd64" {
		t.Skipf("the kernel and the emulator are for amd64, this machine is %s", runtime.GOARCH)
	}
	have, err := readTable(filepath.Join("../..", tablePath))
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLaboratory(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	got := newTable(l.environment)
	names := []string{"fairlead"}
	if have.Environment != got.Environment {
		t.Log(have.otherwise(l.environment))
		names = append(names, "limit")
	}
	count := func(cases string, rounds int) {
		for _, name := range names {
			counts, err := l.count(t.Context(), name, cases, rounds)
			if err != nil {
				t.Fatal(err)
			}
			for c, n := range counts {
				got.set(c, name, n)
			}
		}
	}
	count(counted, 1)
	differences, err := compare(have, got)
	if err != nil {
		t.Fatal(err)
	}
	// What a kernel does now and then may have been counted with a single round.
	for _, d := range differences {
		t.Logf("%v; the median of five rounds decides, as for the table", d)
		count(d.name, 5)
	}
	if differences, err = compare(have, got); err != nil {
		t.Fatal(err)
	}
	for _, d := range differences {
		t.Error(d)
	}
	if t.Failed() {
		t.Log("if this is meant, say why in the commit and refresh " + tablePath + ": make bench-count (CONTESTANTS=fairlead counts nothing else)")
	}
}

// A table is read as it was written, and differences from it are found.
func TestTable(t *testing.T) {
	e := environment{Kernel: "6.12.1-cloud", Compiler: "gcc 12", QEMU: "7.2 (Debian 1:7.2)"}
	have := newTable(e)
	have.set("published/rr/4", "limit", 10_000)
	have.set("published/rr/4", "fairlead", 12_000)
	have.set("peers/crr/4", "limit", 100_000)
	have.set("peers/crr/4", "fairlead", 110_000)
	path := filepath.Join(t.TempDir(), "dir", "table.txt")
	if err := have.write(path); err != nil {
		t.Fatal(err)
	}
	have, err := readTable(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		kernel          string
		limit, fairlead float64
		want            string
	}{
		{"6.12.1-cloud", 10_000, 12_100, ""},
		{"6.12.1-cloud", 10_000, 12_130, "published/rr/4: fairlead takes 12130 instructions, the table has 12000: +1.1 %, bound 1 %"},
		{"6.12.1-cloud", 10_000, 11_870, "published/rr/4: fairlead takes 11870 instructions, the table has 12000: -1.1 %, bound 1 %"},
		{"6.12.2-cloud", 10_500, 12_600, ""},
		{"6.12.2-cloud", 10_000, 12_500, "published/rr/4: fairlead takes 1.250 of the limit, the table has 1.200: +4.2 %, bound 3 %"},
	} {
		e.Kernel = tc.kernel
		got := newTable(e)
		got.set("published/rr/4", "limit", tc.limit)
		got.set("published/rr/4", "fairlead", tc.fairlead)
		got.counts["peers/crr/4"] = have.counts["peers/crr/4"]
		found, err := compare(have, got)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, d := range found {
			text += d.String()
		}
		if text != tc.want {
			t.Errorf("kernel %s, %g: %q, want %q", tc.kernel, tc.fairlead, text, tc.want)
		}
	}
	if _, err := compare(have, newTable(e)); err == nil {
		t.Error("a case that was not counted is accepted")
	}
}
