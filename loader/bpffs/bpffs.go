// SPDX-License-Identifier: Apache-2.0

// Package bpffs holds the layout of the bpffs directory of a datapath, and pins objects in it.
package bpffs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// Root is where systems mount bpffs.
	Root = "/sys/fs/bpf"
	// mountSource marks a bpffs that was mounted for a single datapath.
	mountSource = "fairlead"
)

// The subdirectories of the bpffs directory.
const (
	MapsDir     = "maps"
	LinksDir    = "links"
	FiltersDir  = "filters"
	ProgsPrefix = "progs-"
	// NextSuffix marks a pin that is about to replace another. (bpffs does not
	// allow dots in names.)
	NextSuffix = "_next"
)

// dirs are the directories that every datapath has.
var dirs = []string{MapsDir, LinksDir, FiltersDir}

// MakeDirs ensures that dir is in a bpffs, and creates its subdirectories. Below
// /sys/fs/bpf it uses the system's bpffs (which a new mount namespace may lack);
// anywhere else it mounts a bpffs at dir.
func MakeDirs(dir string) error {
	on, err := onBPFFS(nearest(dir))
	if err != nil {
		return err
	}
	if !on {
		source, target := mountSource, dir
		if dir == Root || strings.HasPrefix(dir, Root+"/") {
			source, target = "bpf", Root
		} else if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make bpf directory: %w", err)
		}
		if err := unix.Mount(source, target, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs at %q: %w", target, err)
		}
	}
	for _, sub := range dirs {
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

// Mounted reports whether bpffs is mounted at Root.
func Mounted() (bool, error) { return onBPFFS(nearest(Root)) }

func onBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("statfs %q: %w", path, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// Remove removes a pin. It succeeds if the pin does not exist.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// Replace pins obj at path, in place of whatever was pinned there.
func Replace(obj interface{ Pin(string) error }, path string) error {
	next := path + NextSuffix
	if err := Remove(next); err != nil {
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

// Each calls f for every entry of a directory. It succeeds if the directory does not exist.
func Each(dir string, f func(path, name string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, f(filepath.Join(dir, e.Name()), e.Name()))
	}
	return errors.Join(errs...)
}

// RemoveSubdirs removes the empty directories that MakeDirs created in dir.
func RemoveSubdirs(dir string) error {
	var errs []error
	for _, sub := range dirs {
		errs = append(errs, Remove(filepath.Join(dir, sub)))
	}
	return errors.Join(errs...)
}

// RemoveDir removes the empty directory of a datapath, and unmounts a bpffs that was mounted for it.
func RemoveDir(dir string) error {
	all, err := Mounts()
	if err != nil {
		return err
	}
	own := slices.ContainsFunc(all, func(m Mount) bool {
		return m.Point == dir && m.Type == "bpf" && m.Source == mountSource
	})
	if own {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount bpffs at %q: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove bpf directory: %w", err)
	}
	return nil
}
