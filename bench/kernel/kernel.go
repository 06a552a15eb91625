// SPDX-License-Identifier: Apache-2.0

// Package kernel accesses Fairlead's pinned programs and tables for benchmarks: it measures
// what a program costs, and fills conntrack.
package kernel

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Runs is how often a program ran, and the total time that took.
type Runs struct {
	Count uint64
	Took  time.Duration
}

// CountRuns makes the kernel count and time the runs of all programs until it is closed. That
// is not free: it adds clock reads to each run.
func CountRuns() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("count the runs of programs: %w", err)
	}
	return c, nil
}

// ReadRuns reads the runs of the programs pinned in a daemon's directory, by name.
func ReadRuns(dir string) (map[string]Runs, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "progs-*", "*"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("read runs of programs: none is pinned in %s", dir)
	}
	all := make(map[string]Runs)
	for _, path := range paths {
		runs, err := readRuns(path)
		if err != nil {
			return nil, fmt.Errorf("read runs of program %s: %w", filepath.Base(path), err)
		}
		all[filepath.Base(path)] = runs
	}
	return all, nil
}

func readRuns(path string) (_ Runs, retErr error) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return Runs{}, err
	}
	defer func() { retErr = errors.Join(retErr, p.Close()) }()
	s, err := p.Stats()
	if err != nil {
		return Runs{}, err
	}
	return Runs{s.RunCount, s.Runtime}, nil
}
