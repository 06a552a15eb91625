// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ErrNoCgroup means that cgroup2 is not mounted. The host itself cannot reach published
// ports then.
var ErrNoCgroup = errors.New("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")

// cgroupPrefix is the prefix of the pins of cgroup links.
const cgroupPrefix = "cgroup-"

// rootCgroup is the inode number, and the ID, of the root cgroup.
const rootCgroup = 1

// AttachCgroup ensures that the current versions of the host's socket programs are
// attached to the cgroup. It returns how many it attached or replaced.
func (d *Datapath) AttachCgroup() (changed int, err error) {
	root, err := d.openCgroup()
	if err != nil {
		d.setCgroupProblem(err.Error())
		return 0, fmt.Errorf("attach programs of host sockets: %w", err)
	}
	defer root.Close()
	// The inode number of a cgroup's directory is the cgroup's ID.
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return 0, fmt.Errorf("identify cgroup %q: %w", root.Name(), err)
	}
	for _, name := range slices.Sorted(maps.Keys(d.cgroup)) {
		did, err := d.attachSock(name, root, st.Ino)
		if err != nil {
			d.setCgroupProblem(err.Error())
			return changed, fmt.Errorf("attach %s to cgroup %q: %w", name, root.Name(), err)
		}
		if did {
			changed++
		}
	}
	partly := ""
	if d.cfg.CgroupRoot == "" && st.Ino != rootCgroup {
		partly = partialCgroupErr(root.Name())
	}
	if d.setCgroupProblem(partly) && partly != "" {
		d.cfg.Log.Warn("host processes outside the daemon's cgroup cannot reach published ports at 127.0.0.1", "err", partly,
			"remedy", "start the daemon in the host's cgroup namespace, or pass the root with --cgroup-root")
	}
	return changed, nil
}

// partialCgroupErr describes a cgroup2 mount that does not show the whole hierarchy.
func partialCgroupErr(point string) string {
	return "cgroup2 at " + point + " shows a part of the host's cgroups: the daemon runs in its own cgroup namespace"
}

// setCgroupProblem records what is wrong with the cgroup, and reports whether that changed.
func (d *Datapath) setCgroupProblem(problem string) bool {
	was := d.cgroupProblem.Swap(&problem)
	return was == nil || *was != problem
}

// CgroupProblem returns the reason that host processes cannot reach published ports at
// 127.0.0.1. It is empty if they can, or if the cgroup has not been opened yet.
func (d *Datapath) CgroupProblem() string {
	if s := d.cgroupProblem.Load(); s != nil {
		return *s
	}
	return ""
}

// openCgroup opens the cgroup to attach to.
func (d *Datapath) openCgroup() (*os.File, error) {
	if d.cfg.CgroupRoot != "" {
		return os.Open(d.cfg.CgroupRoot)
	}
	return findCgroup()
}

func (d *Datapath) attachSock(name string, root *os.File, id uint64) (changed bool, err error) {
	pin := filepath.Join(d.dir, linksDir, cgroupPrefix+name)
	done, changed, err := updateLink(pin, d.progs[name], func(info *link.Info) (bool, error) {
		cg := info.Cgroup()
		return cg != nil && cg.CgroupId == id, nil
	})
	if done || err != nil {
		return changed, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: fmt.Sprintf("/proc/self/fd/%d", root.Fd()), Attach: d.cgroup[name], Program: d.progs[name]})
	if err != nil {
		return false, err
	}
	defer l.Close()
	return true, replacePin(l, pin)
}

// findCgroup opens the root cgroup, or the part of the hierarchy that is visible. Hybrid
// setups have cgroup2 beside the cgroups of version 1.
func findCgroup() (*os.File, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	return pickCgroup(all)
}

// pickCgroup opens the best of the mounts. The path of a hidden mount shows another file
// system, and a process in its own cgroup namespace sees a part of the hierarchy as the
// whole. From there the root can be opened by its file handle, given the capability.
func pickCgroup(all []mount) (*os.File, error) {
	var part *os.File
	for _, m := range all {
		if m.fstype != "cgroup2" {
			continue
		}
		f, ino := openCgroup2(m.point)
		switch {
		case f == nil:
		case ino == rootCgroup:
			if part != nil {
				part.Close()
			}
			return f, nil
		case part == nil:
			part = f
		default:
			f.Close()
		}
	}
	if part == nil {
		return nil, ErrNoCgroup
	}
	if root := rootByHandle(part); root != nil {
		part.Close()
		return root, nil
	}
	return part, nil
}

// openCgroup2 opens a directory of cgroup2. It returns nil if path is on another file system.
func openCgroup2(path string) (*os.File, uint64) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	err = errors.Join(unix.Fstatfs(int(f.Fd()), &fs), unix.Fstat(int(f.Fd()), &st))
	if err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		f.Close()
		return nil, 0
	}
	return f, st.Ino
}

// rootByHandle opens the root of the hierarchy that a directory belongs to, or returns nil.
// It needs CAP_DAC_READ_SEARCH in the initial user namespace.
func rootByHandle(dir *os.File) *os.File {
	const kernfs = 0xfe // FILEID_KERNFS: the ID of the node, 8 bytes
	id := make([]byte, 8)
	binary.NativeEndian.PutUint64(id, rootCgroup)
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), unix.NewFileHandle(kernfs, id), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != rootCgroup {
		f.Close()
		return nil
	}
	return f
}
