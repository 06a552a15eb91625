// SPDX-License-Identifier: Apache-2.0

// Package guest is the init of the machines that package vm boots.
package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// reportPort is the serial port whose output vm.Machine returns as the report; the kernel
// uses the first one.
const reportPort = "/dev/ttyS1"

// Modules is the directory of the modules that Boot loads.
const Modules = "/modules"

// Passed is the last line of the report of a guest whose child exited with status 0.
const Passed = "RESULT pass"

// Boot is the machine's init: it prepares the machine, runs this program again in a child,
// reaps orphans, and turns the machine off. The child's output is the report, to which it
// adds a line with the result. The child gets the flags among the arguments, which must have
// the form NAME=VALUE: the rest are options that the kernel did not know.
func Boot(args []string) {
	args = slices.DeleteFunc(args, func(arg string) bool { return arg[0] != '-' })
	result := "RESULT fail"
	out, err := prepare()
	if err == nil {
		var code int
		if code, err = supervise(args, out); err == nil && code == 0 {
			result = Passed
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	if out != nil {
		fmt.Fprintln(out, result)
		_ = unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // wait until it is sent: otherwise a line may be lost
	}
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintln(os.Stderr, "init: power off:", err)
}

// prepare mounts the usual file systems, loads the modules, and opens the report's port.
func prepare() (*os.File, error) {
	mounts := []struct{ fstype, at string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
		{"cgroup2", "/sys/fs/cgroup"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.fstype, m.at, m.fstype, 0, ""); err != nil {
			return nil, fmt.Errorf("mount %s at %s: %w", m.fstype, m.at, err)
		}
	}
	out, err := os.OpenFile(reportPort, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return out, LoadModules(Modules)
}

// LoadModules loads the modules in a directory of the archive, in its order.
func LoadModules(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for _, path := range files { // sorted
		if err := loadModule(path); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.FinitModule(int(file.Fd()), "", 0)
}

// supervise runs the child and returns its exit status. Programs of sandboxes become children
// of init when their client exits.
func supervise(args []string, out *os.File) (int, error) {
	child, err := os.StartProcess("/proc/self/exe", append([]string{os.Args[0]}, args...), &os.ProcAttr{
		Env:   []string{"PATH=/bin", "HOME=/root"},
		Files: []*os.File{os.Stdin, out, out},
	})
	if err != nil {
		return 0, fmt.Errorf("start this program again: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for it: %w", err)
		case pid == child.Pid && status.Signaled():
			return 0, fmt.Errorf("it ended by signal %d", status.Signal())
		case pid == child.Pid:
			return status.ExitStatus(), nil
		}
	}
}
