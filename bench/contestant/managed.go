// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Managed is a network that a daemon manages through an API. The setup cases measure it.
type Managed interface {
	Network
	// Start makes a container, running or ready to run something, that publishes the given
	// number of ports. It returns how long the step took that publishes them.
	Start(ctx context.Context, name string, ports int) (time.Duration, error)
	// CreateNetwork makes another network.
	CreateNetwork(ctx context.Context, name string, subnets ...string) error
	Connect(ctx context.Context, network, container string) error
	Disconnect(ctx context.Context, network, container string) error
	// Usage returns the usage of the daemon and all its descendants.
	Usage() (Usage, error)
}

// Usage holds what processes use. Memory that several share is divided among them.
type Usage struct {
	Processes int
	Memory    int // resident, kB
}

// Pauser is a network whose daemon can be paused once everything is made, so that nothing
// but the datapath works.
type Pauser interface{ Pause() error }

// published returns the ports that a container publishes, as ExposedPorts and PortBindings
// take them: the given number of TCP ports from Port, and UDP's Port.
func published(ports int) (exposed, bindings map[string]any) {
	exposed, bindings = make(map[string]any), make(map[string]any)
	publish := func(port int, proto string) {
		key := fmt.Sprintf("%d/%s", port, proto)
		exposed[key] = struct{}{}
		bindings[key] = []any{map[string]string{"HostPort": strconv.Itoa(port)}}
	}
	for i := range ports {
		publish(Port+i, "tcp")
	}
	if ports > 0 {
		publish(Port, "udp")
	}
	return exposed, bindings
}

// usageOf sums up the usage of a process and its descendants.
func usageOf(pid int) (u Usage, err error) {
	children, err := parents()
	if err != nil {
		return u, err
	}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		todo = append(todo, children[todo[0]]...)
		kB, err := resident(todo[0])
		switch {
		case errors.Is(err, os.ErrNotExist) && todo[0] != pid: // ended just now
			continue
		case err != nil:
			return u, fmt.Errorf("memory of process %d: %w", todo[0], err)
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
