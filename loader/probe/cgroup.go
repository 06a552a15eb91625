// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// ErrNoCgroup means that cgroup2 is not mounted. The host itself cannot reach published
// ports then.
var ErrNoCgroup = errors.New("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")

// rootCgroup is the inode number, and the ID, of the root cgroup.
const rootCgroup = 1

// Cgroup opens the root cgroup, or the part of the hierarchy that is visible. Hybrid
// setups have cgroup2 beside the cgroups of version 1.
func Cgroup() (*os.File, error) {
	all, err := bpffs.Mounts()
	if err != nil {
		return nil, err
	}
	return pickCgroup(all)
}

// pickCgroup opens the best of the mounts. The path of a hidden mount shows another file
// system, and a process in its own cgroup namespace sees a part of the hierarchy as the
// whole. From there the root can be opened by its file handle, given the capability.
func pickCgroup(all []bpffs.Mount) (*os.File, error) {
	var part *os.File
	for _, m := range all {
		if m.Type != "cgroup2" {
			continue
		}
		f, ino := openCgroup2(m.Point)
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

// PartialCgroup says that the directory, opened by [Cgroup], shows a part of the host's cgroups. It
// returns "" if it shows all.
func PartialCgroup(dir *os.File) string {
	info, err := dir.Stat()
	if err == nil && info.Sys().(*syscall.Stat_t).Ino == rootCgroup {
		return ""
	}
	return "cgroup2 at " + dir.Name() + " shows a part of the host's cgroups: the daemon runs in its own cgroup namespace"
}

func findCgroupRoot() (bool, string) {
	root, err := Cgroup()
	if err != nil {
		return false, err.Error()
	}
	defer root.Close()
	if partial := PartialCgroup(root); partial != "" {
		return false, partial
	}
	return true, "mounted at " + root.Name()
}
