// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
)

// Apart makes a place for a container runtime on the host: namespaces of processes and
// mounts that end with the test. The script makes its mounts there; it shares those
// under /run with the host, where runtimes put network namespaces. The result is the
// process ID by which the place is entered.
func (l *Lab) Apart(script string) (pid string) {
	l.Helper()
	l.Must(l.Host, "mount", "-t", "tmpfs", "run", "/run")
	l.Must(l.Host, "mount", "--make-shared", "/run")
	first := l.Spawn(l.Host, "unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", script+" && echo ready && sleep infinity & wait")
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
