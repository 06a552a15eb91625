// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProgressOnATerminalOnly(t *testing.T) {
	var file bytes.Buffer
	report, stop := showProgress(&file, "devices")
	report(3, 10)
	stop()
	if file.Len() > 0 {
		t.Errorf("no terminal was told %q", &file)
	}

	screen, terminal := openTerminal(t)
	report, stop = showProgress(terminal, "devices")
	report(3, 10)
	stop()
	terminal.Close()
	// After the last who wrote to it has closed it, and all is read, it is gone (EIO).
	shown, err := io.ReadAll(screen)
	if !errors.Is(err, unix.EIO) || !strings.Contains(string(shown), "devices") || !strings.Contains(string(shown), "3/10") {
		t.Errorf("the terminal shows %q, %v", shown, err)
	}
}

// openTerminal makes a terminal and what shows what is written to it.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return screen, terminal
}
