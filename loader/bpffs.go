// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	bpffsRoot = "/sys/fs/bpf"
	// mountSource marks a bpffs that was mounted for a single datapath.
	mountSource = "fairlead"
)

// The subdirectories of the bpffs directory.
const (
	mapsDir     = "maps"
	linksDir    = "links"
	filtersDir  = "filters"
	progsPrefix = "progs-"
	// nextSuffix marks a pin that is about to replace another. (bpffs does not
	// allow dots in names.)
	nextSuffix = "_next"
)

// makeDirs ensures that dir is in a bpffs, and creates its subdirectories. Below
// /sys/fs/bpf it uses the system's bpffs (which a new mount namespace may lack);
// anywhere else it mounts a bpffs at dir.
func makeDirs(dir string) error {
	on, err := onBPFFS(nearest(dir))
	if err != nil {
		return err
	}
	if !on {
		source, target := mountSource, dir
		if dir == bpffsRoot || strings.HasPrefix(dir, bpffsRoot+"/") {
			source, target = "bpf", bpffsRoot
		} else if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make bpf directory: %w", err)
		}
		if err := unix.Mount(source, target, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs at %q: %w", target, err)
		}
	}
	for _, sub := range []string{mapsDir, linksDir, filtersDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make bpf directory: %w", err)
		}
	}
	return nil
}

// nearest returns the nearest ancestor of a path that exists, or the path itself.
func nearest(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func onBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("statfs %q: %w", path, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// removePin removes a pin. It succeeds if the pin does not exist.
func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// replacePin pins obj at path, in place of whatever was pinned there.
func replacePin(obj interface{ Pin(string) error }, path string) error {
	next := path + nextSuffix
	if err := removePin(next); err != nil {
		return err
	}
	if err := obj.Pin(next); err != nil {
		return fmt.Errorf("pin %q: %w", next, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("replace pin: %w", err)
	}
	return nil
}

// mount is one line of /proc/self/mountinfo.
type mount struct {
	root, point, fstype, source string
}

// mounts reads the mounts of this mount namespace.
func mounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(b)), nil
}

// parseMounts parses the format of proc_pid_mountinfo(5).
func parseMounts(s string) []mount {
	var all []mount
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(s) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		all = append(all, mount{
			root: unescape.Replace(l[3]), point: unescape.Replace(l[4]),
			fstype: r[0], source: unescape.Replace(r[1]),
		})
	}
	return all
}
