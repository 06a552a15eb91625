// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Environment describes the machine, and how it is used.
type Environment struct {
	Kernel, Machine, CPU string
	CPUs                 int
	// ClientCPU and ServerCPU are the processors that the two sides of a load are pinned to,
	// the same for every contestant.
	ClientCPU, ServerCPU int
}

// ReadEnvironment describes this machine. Clients get the first processor this process may
// use, servers the second; if there is only one, both use it.
func ReadEnvironment() (Environment, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Environment{}, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return Environment{}, fmt.Errorf("ask for the processors: %w", err)
	}
	var usable []int
	for cpu := 0; len(usable) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			usable = append(usable, cpu)
		}
	}
	return Environment{
		Kernel: unix.ByteSliceToString(uts.Release[:]), Machine: unix.ByteSliceToString(uts.Machine[:]),
		CPU: cpuModel(), CPUs: runtime.NumCPU(),
		ClientCPU: usable[0], ServerCPU: usable[min(1, len(usable)-1)],
	}, nil
}

// cpuModel returns the model name of the first processor, or "" if the kernel does not report
// it.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
