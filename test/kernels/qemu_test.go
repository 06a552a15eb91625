// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guest is a virtual machine that runs its tests and turns itself off.
type guest struct {
	qemu, kernel, initrd string
	args                 string // of its init
}

// run boots the guest and makes a subtest of each step it reports.
func (g guest) run(t *testing.T) {
	t.Helper()
	report, console := g.boot(t)
	result := ""
	var detail []string
	for line := range strings.Lines(report) {
		line = strings.TrimRight(line, "\r\n")
		verdict, rest, _ := strings.Cut(line, " ")
		switch verdict {
		case "ok", "FAIL":
			name, text, _ := strings.Cut(rest, " ")
			t.Run(name, func(t *testing.T) {
				t.Log(strings.Join(append([]string{text}, detail...), "\n"))
				if verdict == "FAIL" {
					t.Fail()
				}
			})
			detail = nil
		case "RESULT":
			result = rest
		default: // belongs to the step whose verdict follows
			detail = append(detail, line)
		}
	}
	if result != "pass" {
		t.Errorf("the guest's result is %q, want \"pass\"\n%s\nits console ends with:\n%s",
			result, strings.Join(detail, "\n"), tail(console, 40))
	}
	if found := complaints(console); len(found) > 0 {
		t.Errorf("the kernel complained:\n%s", strings.Join(found, "\n"))
	}
}

// boot runs the machine to its end and returns what the guest wrote to its two
// serial ports: its report, and the kernel's messages.
func (g guest) boot(t *testing.T) (report, console string) {
	t.Helper()
	dir := t.TempDir()
	reportFile, consoleFile := filepath.Join(dir, "report"), filepath.Join(dir, "console")
	ctx, cancel := context.WithTimeout(context.Background(), guestTime)
	defer cancel()
	// Emulation errs where processors run at once: a kernel that patches itself
	// meets a stale breakpoint, and cmpxchg16b spoils the flags. Guests without
	// either never failed to boot.
	cmd := exec.CommandContext(ctx, g.qemu,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", cmp.Or(os.Getenv("FAIRLEAD_QEMU_ACCEL"), "tcg,thread=single"),
		"-cpu", "max,-cx16", "-m", "1G", "-smp", "2",
		"-serial", "file:"+consoleFile, "-serial", "file:"+reportFile,
		"-kernel", g.kernel, "-initrd", g.initrd,
		// A kernel that panics reboots, which ends the machine.
		"-append", "console=ttyS0 loglevel=5 oops=panic panic=-1 -- "+g.args)
	// The machine ends with the test, however that ends.
	runtime.LockOSThread() // what Pdeathsig takes for the parent
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("the guest did not end within %s", guestTime)
	} else if err != nil {
		t.Errorf("qemu: %v\n%s", err, out)
	}
	t.Logf("the guest ran for %s", time.Since(began).Round(time.Second/10))
	return string(mustRead(t, reportFile)), string(mustRead(t, consoleFile))
}

// complaints are the kernel's messages that must not appear.
func complaints(console string) []string {
	bad := regexp.MustCompile(`WARNING: CPU|BUG:|Oops|Kernel panic|Call Trace|hw csum failure|refcount_t|unregister_netdevice|suspicious RCU`)
	var found []string
	for line := range strings.Lines(console) {
		if bad.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// tail is the last n lines.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
