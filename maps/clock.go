// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the datapath's clock in seconds: CLOCK_MONOTONIC, as it is in the kernel.
func Now() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot happen: the clock always exists
	}
	return uint32((time.Duration(ts.Nano()) - clockOffset()) / time.Second)
}

// clockOffset is how far CLOCK_MONOTONIC of this process's time namespace (time_namespaces(7)) is ahead of the kernel's own.
var clockOffset = sync.OnceValue(func() time.Duration {
	offsets, _ := os.ReadFile("/proc/self/timens_offsets") // absent without time namespaces
	for line := range strings.Lines(string(offsets)) {
		var sec, nsec int64
		if _, err := fmt.Sscanf(line, "monotonic %d %d", &sec, &nsec); err == nil {
			return time.Duration(sec)*time.Second + time.Duration(nsec)
		}
	}
	return 0
})
