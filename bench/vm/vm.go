// SPDX-License-Identifier: Apache-2.0

// Package vm boots Debian's cloud kernels in qemu with an initramfs made here. The kernel
// matrix (test/kernels) and the counted benchmarks (bench/count) use it; package guest is the
// init that runs inside both.
//
// Kernels are fetched with apt-get, once: the packages stay in
// ${XDG_CACHE_HOME:-/var/cache}/fairlead/kernels. Guests are emulated;
// FAIRLEAD_QEMU_ACCEL=kvm speeds up those of the matrix where KVM works.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

// Programs of other packages that guests consist of and run in.
const (
	qemu    = "qemu-system-x86_64"
	busybox = "busybox"
)

// Machine is a virtual machine that runs its init and turns itself off.
type Machine struct {
	Image  Image         // required: its kernel
	Root   []byte        // required: the initramfs
	Args   string        // of its init
	CPUs   int           // required
	Time   time.Duration // required: the limit from power on to power off
	Append string        // additional options for the kernel's command line
	// Counting makes the clock advance by one nanosecond for each instruction,
	// whatever the load of the real machine. It takes one processor.
	Counting bool
	// Plugin is a plugin of TCG with its arguments, as qemu's option -plugin has it; "" for none.
	Plugin string
}

// Output holds what the guest wrote to its two serial ports, and how long it ran.
type Output struct {
	Report, Console string
	Took            time.Duration
}

// Run runs the machine until it ends. The output is valid even with an error. It is an error
// if the guest's program fails or the kernel logs one of the messages in bad.
func (m Machine) Run(ctx context.Context) (out Output, retErr error) {
	dir, err := os.MkdirTemp("", "fairlead-vm-")
	if err != nil {
		return out, fmt.Errorf("make directory of a guest: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, os.RemoveAll(dir)) }()
	initrd := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(initrd, m.Root, 0o600); err != nil {
		return out, err
	}
	console, report := filepath.Join(dir, "console"), filepath.Join(dir, "report")
	began := time.Now()
	runErr := m.run(ctx, m.args(initrd, console, report))
	out.Took = time.Since(began)
	for _, file := range []struct {
		path string
		text *string
	}{{console, &out.Console}, {report, &out.Report}} {
		text, err := os.ReadFile(file.path)
		if err != nil {
			return out, errors.Join(runErr, err)
		}
		*file.text = string(text)
	}
	passed := strings.HasSuffix(strings.TrimSpace(out.Report), guest.Passed)
	if runErr == nil && !passed {
		runErr = fmt.Errorf("the guest failed; its console ends with:\n%s", tail(out.Console, 40))
	}
	if found := complaints(out.Console); len(found) > 0 {
		runErr = errors.Join(runErr, fmt.Errorf("the guest's kernel complained:\n%s", strings.Join(found, "\n")))
	}
	return out, runErr
}

// bad lists kernel messages that must not appear.
var bad = regexp.MustCompile(`WARNING: CPU|BUG:|Oops|Kernel panic|Call Trace|hw csum failure|refcount_t|unregister_netdevice|suspicious RCU`)

func complaints(console string) []string {
	var found []string
	for line := range strings.Lines(console) {
		if bad.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// tail returns the last n lines.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// args returns qemu's command line.
//
// Emulation is wrong where processors run in parallel: a kernel that patches itself hits a
// stale breakpoint, and cmpxchg16b corrupts the flags. Guests without either never failed to
// boot. A counting guest does not have fast string instructions either: they would count as
// one instruction, however long the string.
func (m Machine) args(initrd, console, report string) []string {
	accel, cpu := cmp.Or(os.Getenv("FAIRLEAD_QEMU_ACCEL"), "tcg,thread=single"), "max,-cx16"
	if m.Counting {
		accel, cpu = "tcg,thread=single", "max,-cx16,-erms,-fsrm"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", accel, "-cpu", cpu, "-m", "1G", "-smp", fmt.Sprint(m.CPUs),
		"-serial", "file:" + console, "-serial", "file:" + report,
		"-kernel", m.Image.Kernel, "-initrd", initrd,
		// A kernel that panics reboots, which ends the machine (-no-reboot).
		"-append", strings.Join([]string{"console=ttyS0 loglevel=5 oops=panic panic=-1", m.Append, "--", m.Args}, " "),
	}
	if m.Counting {
		args = append(args, "-icount", "shift=0,sleep=off,align=off")
	}
	if m.Plugin != "" {
		args = append(args, "-plugin", m.Plugin)
	}
	return args
}

// run runs qemu, which is killed when this process dies, however that happens.
func (m Machine) run(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, m.Time)
	defer cancel()
	runtime.LockOSThread() // Pdeathsig takes the thread for the parent
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the guest did not end within %s", m.Time)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", qemu, err, out)
	}
	return nil
}

// Version returns qemu's version.
func Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", qemu, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(line, "QEMU emulator version "), nil
}

// Needs returns what is missing to run guests here, or nil.
func Needs() error {
	for command, pkg := range map[string]string{qemu: "qemu-system-x86", busybox: "busybox-static"} {
		if _, err := exec.LookPath(command); err != nil {
			return fmt.Errorf("%w (apt-get install %s; make test does)", err, pkg)
		}
	}
	return nil
}

// Build compiles the packages that run in guests into dir, without cgo and so without shared
// libraries.
func Build(ctx context.Context, dir string, packages ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
