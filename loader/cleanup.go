// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/maps"
)

// Cleanup removes the datapath of a bpffs directory from the kernel: it detaches
// all programs and removes all pins and the directory. It leaves anything else
// alone, and succeeds if the directory does not exist. c is needed if there are
// clsact filters, and may be nil otherwise.
func Cleanup(bpfDir string, c Clsact) error {
	bpfDir = filepath.Clean(bpfDir)
	if _, err := os.Stat(bpfDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := cleanAttachments(bpfDir, c); err != nil {
		return fmt.Errorf("clean up %q: %w", bpfDir, err)
	}
	if err := cleanPins(bpfDir); err != nil {
		return fmt.Errorf("clean up %q: %w", bpfDir, err)
	}
	return removeDir(bpfDir)
}

func cleanAttachments(dir string, c Clsact) error {
	filters, err := attachments(dir, filtersDir)
	if err != nil {
		return err
	}
	for _, a := range filters {
		if _, err := detachFilter(dir, a.IfIndex, a.Hook, c); err != nil {
			return err
		}
	}
	return eachEntry(filepath.Join(dir, linksDir), func(path, name string) error {
		if _, _, ok := parsePinName(name); !ok && !strings.HasPrefix(name, cgroupPrefix) {
			return nil
		}
		_, err := detachLink(path)
		return err
	})
}

// cleanPins removes programs and tables. Other entries do not belong to Fairlead;
// they stay, and the directories that hold them too.
func cleanPins(dir string) error {
	known := maps.Names()
	err := errors.Join(
		eachEntry(dir, func(path, name string) error {
			if strings.HasPrefix(name, progsPrefix) {
				return os.RemoveAll(path)
			}
			return nil
		}),
		eachEntry(filepath.Join(dir, mapsDir), func(path, name string) error {
			if slices.Contains(known, strings.TrimSuffix(name, nextSuffix)) {
				return removePin(path)
			}
			return nil
		}),
		eachEntry(filepath.Join(dir, filtersDir), removeNext),
		eachEntry(filepath.Join(dir, linksDir), removeNext),
	)
	for _, sub := range []string{mapsDir, linksDir, filtersDir} {
		err = errors.Join(err, removePin(filepath.Join(dir, sub)))
	}
	return err
}

// removeNext removes pins that an interrupted replacement left.
func removeNext(path, name string) error {
	if _, _, ok := parsePinName(strings.TrimSuffix(name, nextSuffix)); ok {
		return removePin(path)
	}
	return nil
}

// eachEntry calls f for every entry of a directory. It succeeds if the directory does not exist.
func eachEntry(dir string, f func(path, name string) error) error {
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

// removeDir removes the directory, and unmounts a bpffs that was mounted for this datapath.
func removeDir(dir string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	own := slices.ContainsFunc(all, func(m mount) bool {
		return m.point == dir && m.fstype == "bpf" && m.source == mountSource
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
