// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount is a line of mountinfo.
type mount struct {
	id    string // its number, which may be reused later, device and mount point
	where string // device, root in it, and mount point: the same in every copy of a mount namespace
	line  string // from the root on
}

// readMounts parses a mountinfo of /proc.
func readMounts(tb testing.TB, path string) (list []mount) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		list = append(list, mount{id: strings.Join([]string{f[0], f[2], f[4]}, " "), where: strings.Join(f[2:5], " "), line: strings.Join(f[3:], " ")})
	}
	return list
}

func (l *Lab) mountinfo() string { return filepath.Join(l.Host.NetNS(), "../../mountinfo") }

// Mounts returns the mounts that were made on the host since it exists, and those that it was
// made with and has lost although the machine still has them. The host has copies of the
// machine's mounts, which vanish when a process removes a mount point on the machine: that
// does not say anything about the host.
func (l *Lab) Mounts() (made, lost []string) {
	l.Helper()
	now := readMounts(l, l.mountinfo())
	machine := map[string]bool{}
	for _, m := range readMounts(l, "/proc/self/mountinfo") { // read after the host's: a mount that vanished before is missing here too
		machine[m.where] = true
	}
	for _, m := range now {
		if !slices.ContainsFunc(l.inherited, func(old mount) bool { return old.id == m.id }) {
			made = append(made, m.line)
		}
	}
	for _, old := range l.inherited {
		if machine[old.where] && !slices.ContainsFunc(now, func(m mount) bool { return m.id == old.id }) {
			lost = append(lost, old.line)
		}
	}
	slices.Sort(made)
	return made, lost
}

// Neighbours makes and removes mounts and network namespaces on the machine until the test
// ends. Hosts made after it returns have copies that vanish.
func Neighbours(tb testing.TB) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "neighbours")
	if err != nil {
		tb.Fatal(err)
	}
	n := neighbours{TB: tb, dir: dir}
	for range 40 { // they last for four seconds
		n.add()
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				n.remove()
				n.add()
			}
		}
	}()
	tb.Cleanup(func() {
		close(stop)
		<-stopped
		for len(n.paths) > 0 {
			n.remove()
		}
		if err := os.Remove(dir); err != nil {
			tb.Error(err)
		}
	})
}

// neighbours holds mounts of file systems and of network namespaces, oldest first.
type neighbours struct {
	testing.TB
	dir   string
	paths []string
	made  int
}

func (n *neighbours) add() {
	n.made++
	path := filepath.Join(n.dir, strconv.Itoa(n.made))
	var err error
	if n.made%2 == 0 {
		err = errors.Join(os.Mkdir(path, 0o755), unix.Mount("neighbour", path, "tmpfs", 0, ""))
	} else {
		err = errors.Join(os.WriteFile(path, nil, 0o444), exec.Command("unshare", "--net="+path, "true").Run())
	}
	if err != nil {
		n.Errorf("make a mount beside the test: %v", err)
	}
	n.paths = append(n.paths, path)
}

func (n *neighbours) remove() {
	path := n.paths[0]
	n.paths = n.paths[1:]
	if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
		n.Errorf("remove a mount beside the test: %v", err)
	}
}
