// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
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

// AttachCgroup makes sure the programs of host sockets, and no earlier versions
// of them, are attached to the cgroup. It returns how many it had to attach or
// replace.
func (d *Datapath) AttachCgroup() (changed int, err error) {
	root := d.cfg.CgroupRoot
	if root == "" {
		if root, err = findCgroup(); err != nil {
			return 0, fmt.Errorf("attach programs of host sockets: %w", err)
		}
	}
	// The inode number of a cgroup's directory is the cgroup's id.
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return 0, fmt.Errorf("identify cgroup %q: %w", root, err)
	}
	for _, name := range slices.Sorted(maps.Keys(d.cgroup)) {
		did, err := d.attachSock(name, root, st.Ino)
		if err != nil {
			return changed, fmt.Errorf("attach %s to cgroup %q: %w", name, root, err)
		}
		if did {
			changed++
		}
	}
	return changed, nil
}

func (d *Datapath) attachSock(name, root string, id uint64) (changed bool, err error) {
	pin := filepath.Join(d.dir, linksDir, cgroupPrefix+name)
	done, changed, err := adoptLink(pin, d.progs[name], func(info *link.Info) (bool, error) {
		cg := info.Cgroup()
		return cg != nil && cg.CgroupId == id, nil
	})
	if done || err != nil {
		return changed, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: d.cgroup[name], Program: d.progs[name]})
	if err != nil {
		return false, err
	}
	defer l.Close()
	return true, replacePin(l, pin)
}

// findCgroup is where cgroup2 is mounted: with the whole hierarchy if it can
// be. Hybrid setups have it beside the cgroups of version 1.
func findCgroup() (string, error) {
	all, err := mounts()
	if err != nil {
		return "", err
	}
	return pickCgroup(all)
}

func pickCgroup(all []mount) (string, error) {
	found := ""
	for _, m := range all {
		if m.fstype != "cgroup2" {
			continue
		}
		if m.root == "/" {
			return m.point, nil
		}
		if found == "" {
			found = m.point
		}
	}
	if found == "" {
		return "", ErrNoCgroup
	}
	return found, nil
}
