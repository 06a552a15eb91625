// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ProcessStart returns the start time of a process, field 22 of
// /proc/PID/stat. PID and start time together identify a process despite PID reuse.
func ProcessStart(pid int) (uint64, error) {
	start, _, err := processStat(pid)
	return start, err
}

// ProcessAlive reports whether the process with that PID and start time is running; start 0
// matches any. A zombie is not running: it has exited, and only its exit status has not been read.
// A process that cannot be read, for example without a free file descriptor, counts as running,
// since what follows the end of a process cannot be undone.
func ProcessAlive(pid int, start uint64) bool {
	got, state, err := processStat(pid)
	if err != nil { // ESRCH: it ended between open and read
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	return (start == 0 || got == start) && state != 'Z' && state != 'X'
}

func processStat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The second field is the command name in parentheses, which may contain
	// any character, including parentheses.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read start time of process %d: its stat file is too short", pid)
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return start, fields[0][0], nil
}
