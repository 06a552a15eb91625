// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Apart makes an isolated place for a container runtime on the host: PID and mount namespaces
// that end with the test, and private file systems where a runtime keeps files whose location
// cannot be configured; more is a command that mounts others. The place shares with the host
// what it mounts under /run, where network namespaces are. It is entered by the process ID
// returned.
func (l *Lab) Apart(more string) (pid string) {
	l.Helper()
	return l.apart("--mount-proc", "sh", "-c",
		"mount -t tmpfs lib /var/lib && mount -t tmpfs shm /dev/shm && "+more+" && echo ready && sleep infinity & wait")
}

// ApartIn is like Apart with another root, a directory of its own with the contents of lower;
// what is written to it stays in memory. The daemon's socket is at its usual path.
func (l *Lab) ApartIn(lower string) (pid string) {
	l.Helper()
	return l.apart("sh", "-ec", rootMounts, "sh", lower, l.Dir("root"), l.Dir("memory"), l.Dir("run"))
}

// rootMounts is the command that makes the root. Containers are beside it, because an overlay
// cannot be on another. It has to be the root of the namespace: in a mere chroot, containers
// could get out of theirs.
const rootMounts = `
	mount -t tmpfs upper "$3"
	mkdir "$3/upper" "$3/work"
	mount -t overlay -o "lowerdir=$1,upperdir=$3/upper,workdir=$3/work" root "$2"
	mkdir -p "$2/var/lib/containers" "$2$4" "$2/old"
	mount -t tmpfs containers "$2/var/lib/containers"
	mount --bind "$4" "$2$4"
	mount --bind /run "$2/run"
	mount --rbind /dev "$2/dev"
	mount -t tmpfs shm "$2/dev/shm"
	mount --rbind /sys "$2/sys"
	mount -t tmpfs cgroup "$2/sys/fs/cgroup"
	mount -t proc proc "$2/proc"
	cd "$2"
	pivot_root . old
	mount --make-rslave /old
	umount -l /old
	echo ready
	sleep infinity & wait`

// apart starts the first process, by unshare with these arguments.
func (l *Lab) apart(args ...string) (pid string) {
	l.Helper()
	l.Must(l.Host, "mount", "-t", "tmpfs", "run", "/run")
	l.Must(l.Host, "mount", "--make-shared", "/run")
	first := l.Spawn(l.Host, "unshare", append([]string{"--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child"}, args...)...)
	l.Eventually(30*time.Second, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", first.Pid()))
		pid = strings.TrimSpace(string(children))
		if err == nil && !strings.Contains(first.Output(), "ready") {
			err = fmt.Errorf("not ready: %s", first.Output())
		}
		return err
	})
	return pid
}
