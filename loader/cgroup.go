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

// ErrNoCgroup: no cgroup2 is mounted. Published ports are not reachable from
// the host itself then.
var ErrNoCgroup = errors.New("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")

// cgroupPrefix begins the names of the cgroup's links.
const cgroupPrefix = "cgroup-"

// rootCgroup is the inode number, and the ID, of the root of the whole hierarchy.
const rootCgroup = 1

// AttachCgroup makes sure the programs of host sockets, and no earlier versions
// of them, are attached to the cgroup. It returns how many it had to attach or
// replace.
func (d *Datapath) AttachCgroup() (changed int, err error) {
	root, err := d.openCgroup()
	if err != nil {
		d.setCgroupProblem(err.Error())
		return 0, fmt.Errorf("attach programs of host sockets: %w", err)
	}
	defer root.Close()
	// The inode number of a cgroup's directory is the cgroup's id.
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
		d.cfg.Log.Warn("programs of the host outside of the daemon's cgroup do not reach published ports at 127.0.0.1", "err", partly,
			"remedy", "start the daemon in the host's cgroup namespace, or name the root with --cgroup-root")
	}
	return changed, nil
}

// partialCgroupErr says what is wrong with a mount.
func partialCgroupErr(point string) string {
	return "cgroup2 at " + point + " shows a part of the host's cgroups: the daemon is in a cgroup namespace of its own"
}

// setCgroupProblem keeps what is wrong with the cgroup, and reports whether that is news.
func (d *Datapath) setCgroupProblem(trouble string) bool {
	was := d.cgroupProblem.Swap(&trouble)
	return was == nil || *was != trouble
}

// CgroupProblem says why programs of the host do not reach published ports at 127.0.0.1; "": they
// do, or it is not known yet.
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

// findCgroup opens the root of all cgroups, or what is seen of them. Hybrid setups have
// cgroup2 beside the cgroups of version 1.
func findCgroup() (*os.File, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	return pickCgroup(all)
}

// pickCgroup opens the best of the mounts: a mount that another one hides shows something else at
// its place, and in a cgroup namespace of its own a process sees a part as if it were all.
// From there a handle leads to the root, if the process may use one.
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

// openCgroup2 opens a directory of cgroup2; nil if that is something else.
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

// rootByHandle opens the root of the hierarchy that a directory belongs to; nil if it cannot.
// It takes CAP_DAC_READ_SEARCH outside of user namespaces.
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
