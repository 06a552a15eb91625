// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// pinnable is a map or a program. What another program removes from the bpffs is still recorded as
// pinned by the library; a duplicate is not.
type pinnable[T any] interface {
	Clone() (T, error)
	Pin(path string) error
	Close() error
}

// RestorePins pins the maps and programs whose pins other programs removed, so that the next daemon
// continues with them, and restores the directories, in a new bpffs if the previous one was unmounted.
// It returns how many pins it restored. Those of attachments are left to Attach.
func (d *Datapath) RestorePins() (restored int, err error) {
	if err := bpffs.MakeDirs(d.dir); err != nil {
		return 0, err
	}
	var errs []error
	add := func(changed bool, err error) {
		if errs = append(errs, err); changed {
			restored++
		}
	}
	for name, m := range d.tables.Maps {
		add(restorePin(m, filepath.Join(d.dir, bpffs.MapsDir, name)))
	}
	if err := os.Mkdir(d.progsDir(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		errs = append(errs, fmt.Errorf("make directory for programs: %w", err))
	}
	for name, p := range d.progs {
		add(restorePin(p, filepath.Join(d.progsDir(), name)))
	}
	return restored, errors.Join(errs...)
}

// restorePin pins an object unless something is pinned there.
func restorePin[T pinnable[T]](object T, path string) (changed bool, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	duplicate, err := object.Clone()
	if err != nil {
		return false, err
	}
	defer duplicate.Close()
	if err := duplicate.Pin(path); err != nil {
		return false, fmt.Errorf("pin %q again: %w", path, err)
	}
	return true, nil
}
