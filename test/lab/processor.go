// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// ticksPerSecond is the unit of the times in /proc (USER_HZ).
const ticksPerSecond = 100

// DaemonTime returns the processor time that the daemon has used.
func (l *Lab) DaemonTime() time.Duration {
	l.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.Daemon.Pid()))
	l.must(err)
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	var user, system int
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	l.must(err)
	return time.Duration(user+system) * time.Second / ticksPerSecond
}
