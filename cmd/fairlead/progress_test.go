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
		t.Errorf("progress was written to a file: %q", &file)
	}

	screen, terminal := openTerminal(t)
	report, stop = showProgress(terminal, "devices")
	report(3, 10)
	stop()
	terminal.Close()
	// When all writers have closed the terminal and everything has been read, reads return EIO.
	shown, err := io.ReadAll(screen)
	if !errors.Is(err, unix.EIO) || !strings.Contains(string(shown), "devices") || !strings.Contains(string(shown), "3/10") {
		t.Errorf("the terminal shows %q, %v", shown, err)
	}
}

// openTerminal opens a pseudoterminal. What is written to terminal can be read from screen.
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
