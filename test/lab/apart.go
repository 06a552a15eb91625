// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
)

// Apart makes a place for a container runtime on the host: namespaces of processes and
// mounts that end with the test, and file systems of its own where runtimes keep what
// cannot be told to be elsewhere; more is a command that mounts others. The place shares
// with the host what it mounts under /run, where network namespaces are. It is entered by
// the process ID returned.
func (l *Lab) Apart(more string) (pid string) {
	l.Helper()
	l.Must(l.Host, "mount", "-t", "tmpfs", "run", "/run")
	l.Must(l.Host, "mount", "--make-shared", "/run")
	first := l.Spawn(l.Host, "unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", "mount -t tmpfs lib /var/lib && mount -t tmpfs shm /dev/shm && "+more+" && echo ready && sleep infinity & wait")
	l.Eventually(2*Patient, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", first.Pid()))
		pid = strings.TrimSpace(string(children))
		if err == nil && !strings.Contains(first.Output(), "ready") {
			err = fmt.Errorf("not ready: %s", first.Output())
		}
		return err
	})
	return pid
}
