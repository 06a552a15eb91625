// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/report"
)

// TestSmoke briefly runs the real benchmark: the contestants that a Debian package provides on
// every path, and Docker's network of two hosts, which only Engine 29 has. It does not judge figures, only that they exist.
func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "github.com/fairlead-net/fairlead/cmd/fairlead", "github.com/fairlead-net/fairlead/cmd/fairlead-store")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in images that contain nothing else
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fairlead: %v\n%s", err, text)
	}
	run := measure(t, binary, "smoke", "limit,fairlead,direct,few,bridge,docker20,"+cases.DockerOverlay)
	checkCosts(t, run.Cases[0])
	// An engine and a daemon in one world take their time; these two cases cover both
	// protocols and families, from outside and from a container.
	measure(t, binary, "published/udp64/4", cases.Under)
	measure(t, binary, "hairpin/rr/6", cases.Untracked)
}

// measure briefly runs cases, and checks the results and what is left behind.
func measure(t *testing.T, binary, pattern, contestants string) *report.Run {
	t.Helper()
	dir := filepath.Dir(binary)
	out := filepath.Join(dir, "run.json")
	bench := exec.Command(binary, "bench", "--case", pattern, "--rounds", "1", "--seconds", "0.2", "--out", out,
		"--contestants", contestants)
	bench.Env = append(os.Environ(), "TMPDIR="+dir)
	text, err := bench.CombinedOutput()
	t.Logf("%s", text)
	if err != nil {
		t.Errorf("fairlead bench: %v", err)
	}
	run := read(t, out)
	for name, version := range run.Contestants {
		if strings.HasPrefix(version, "absent") {
			t.Errorf("%s: %s", name, version)
		}
	}
	selected, err := cases.Select([]string{pattern})
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Cases) != len(selected) {
		t.Errorf("%d cases were measured, want %d", len(run.Cases), len(selected))
	}
	for _, c := range run.Cases {
		checkCase(t, run, c)
	}
	checkNothingLeft(t, dir, bench.Process.Pid)
	return run
}

func read(t *testing.T, path string) *report.Run {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run, err := report.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// checkCase requires a result of every contestant that has not reported a reason for having
// none.
func checkCase(t *testing.T, run *report.Run, c report.Case) {
	t.Helper()
	for _, name := range run.Order {
		if c.Absent[name] != "" {
			continue
		}
		for i, round := range c.Rounds {
			if m := round.Measured[name]; !plausible(m) {
				t.Errorf("%s, round %d: %s measured %v", c.Name, i+1, name, m)
			}
		}
	}
	subjects := []string{"limit", "fairlead", "docker20", cases.Under, cases.Untracked}
	switch path, _, _ := strings.Cut(c.Name, "/"); {
	case strings.HasPrefix(path, "ports"), path == string(cases.Setup):
		subjects = []string{"fairlead"}
	case path == string(cases.Overlay):
		subjects = []string{"limit", "fairlead", "bridge", cases.DockerOverlay}
	}
	for _, subject := range subjects {
		if c.Absent[subject] != "" {
			t.Errorf("%s: no %s: %s", c.Name, subject, c.Absent[subject])
		}
	}
}

// checkCosts checks that the programs of published ports were counted.
func checkCosts(t *testing.T, c report.Case) {
	t.Helper()
	for _, program := range []string{"from_uplink", "from_endpoint"} {
		if cost := c.Costs[program]; cost.Runs == 0 || cost.Nanoseconds <= 0 {
			t.Errorf("%s: %s cost %+v", c.Name, program, cost)
		}
	}
}

// plausible reports whether the measures are consistent.
func plausible(m load.Measures) bool {
	if m["rate"] <= 0 && m["gbps"] <= 0 && m["took"] <= 0 {
		return false
	}
	var times []float64
	for _, name := range []string{"p50", "p99", "p999"} {
		if v, ok := m[name]; ok { // wrk does not report p999
			times = append(times, v)
		}
	}
	return slices.IsSorted(times) && m["loss"] >= 0 && m["loss"] < 1
}

// checkNothingLeft looks for files, cgroups and programs of the run.
func checkNothingLeft(t *testing.T, dir string, pid int) {
	t.Helper()
	name := fmt.Sprintf("fl-bench-%d-*", pid)
	for _, pattern := range []string{
		filepath.Join(dir, name), "/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name,
	} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range programs {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, dir) {
			t.Errorf("still running: %s, %s", link, exe)
		}
	}
}
