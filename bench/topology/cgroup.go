// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Cgroup holds the programs of a world, so that programs that one contestant attaches to its
// cgroup do not see another's traffic. The processes are in a cgroup below it, beside another
// for an engine's containers: a cgroup that enables controllers for its children cannot hold
// processes.
type Cgroup struct {
	Path string
	dir  *os.File // the cgroup of the programs
	// procs are the files by which a program enters controllers with hierarchies of their
	// own.
	procs []string
}

// controllers lists the controllers that engines put containers under and that cost something
// at run time: CPU time is shared out by group, memory is charged to it.
var controllers = []string{"cpu", "memory"}

// NewCgroup makes a cgroup.
func NewCgroup() (*Cgroup, error) {
	root, err := cgroup2()
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(root, prefix())
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	programs := filepath.Join(path, "programs")
	if err := os.Mkdir(programs, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), os.Remove(path))
	}
	dir, err := os.Open(programs)
	if err != nil {
		return nil, errors.Join(err, removeTree(path))
	}
	c := &Cgroup{Path: path, dir: dir}
	if err := c.control(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// control puts the programs under the controllers, where the machine has them.
func (c *Cgroup) control() error {
	for _, name := range controllers {
		hierarchy := filepath.Join("/sys/fs/cgroup", name)
		if _, err := os.Stat(hierarchy); errors.Is(err, fs.ErrNotExist) {
			err := os.WriteFile(filepath.Join(c.Path, "cgroup.subtree_control"), []byte("+"+name), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("put programs under the controller %s: %w", name, err)
			}
			continue
		}
		path := filepath.Join(hierarchy, filepath.Base(c.Path), "programs")
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		c.procs = append(c.procs, filepath.Join(path, "cgroup.procs"))
	}
	return nil
}

// enter returns the command that runs another under the controllers.
func (c *Cgroup) enter(args []string) []string {
	return append([]string{"sh", "-c", `for f in $0; do echo $$ >$f || exit; done; exec "$@"`, strings.Join(c.procs, " ")}, args...)
}

// Containers returns the name of the cgroup for an engine's containers.
func (c *Cgroup) Containers() string { return "/" + filepath.Base(c.Path) + "/containers" }

// cgroup2 returns where cgroup2 is mounted.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

// Attr returns attributes that start a program in the cgroup.
func (c *Cgroup) Attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(c.dir.Fd())}
}

// Close removes the cgroup once its last program has exited, with the cgroups of the same
// name that an engine made in other hierarchies.
func (c *Cgroup) Close() error {
	c.dir.Close()
	return errors.Join(removeTree(c.Path), RemoveCgroups(filepath.Base(c.Path)))
}

// RemoveCgroups removes a cgroup of this name, and those below it, from every hierarchy.
func RemoveCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(pattern, name))
		errs = append(errs, err)
		for _, path := range found {
			errs = append(errs, removeTree(path))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it. A cgroup's files cannot be removed, and do
// not prevent its removal.
func removeTree(path string) error {
	below, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) { // removed under another name of its hierarchy
		return nil
	}
	if err != nil {
		return fmt.Errorf("list cgroup: %w", err)
	}
	for _, entry := range below {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return removeCgroup(path)
}

// removeCgroup removes a cgroup whose last processes may still be exiting.
func removeCgroup(path string) error {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = os.Remove(path); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("remove cgroup: %w", err)
}
