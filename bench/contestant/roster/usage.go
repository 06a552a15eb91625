// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/bench/contestant"
)

// descendants returns a process and its descendants.
func descendants(pid int) ([]int, error) {
	children, err := parents()
	if err != nil {
		return nil, err
	}
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
	}
	return list, nil
}

// usageOf sums up the usage of a process and its descendants.
func usageOf(pid int) (u contestant.Usage, err error) {
	list, err := descendants(pid)
	if err != nil {
		return u, err
	}
	for _, one := range list {
		kB, err := resident(one)
		switch {
		case errors.Is(err, os.ErrNotExist) && one != pid: // ended just now
			continue
		case err != nil:
			return u, fmt.Errorf("memory of process %d: %w", one, err)
		}
		u.Processes++
		u.Memory += kB
	}
	return u, nil
}

// parents returns all processes by their parent.
func parents() (map[int][]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended just now
		}
		rest := stat[bytes.LastIndexByte(stat, ')')+1:] // a name may contain any character
		var state string
		var parent int
		if _, err := fmt.Sscan(string(rest), &state, &parent); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], pid)
	}
	return children, nil
}

// resident returns a process's proportional share of memory in kB.
func resident(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(text), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Pss:") })
	if i < 0 {
		return 0, errors.New("the kernel does not say")
	}
	var kB int
	_, err = fmt.Sscanf(lines[i], "Pss: %d kB", &kB)
	return kB, err
}
