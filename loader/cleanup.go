// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/loader/hook"
	"github.com/fairlead-net/fairlead/maps"
)

// Cleanup removes the datapath of a bpffs directory from the kernel: it detaches
// all programs and removes all pins and the directory. It leaves anything else
// alone, and succeeds if the directory does not exist. f is needed if there are
// clsact filters, and may be nil otherwise.
func Cleanup(bpfDir string, f hook.Filters) error {
	bpfDir = filepath.Clean(bpfDir)
	if _, err := os.Stat(bpfDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := hook.Cleanup(bpfDir, f); err != nil {
		return fmt.Errorf("clean up %q: %w", bpfDir, err)
	}
	if err := cleanPins(bpfDir); err != nil {
		return fmt.Errorf("clean up %q: %w", bpfDir, err)
	}
	return bpffs.RemoveDir(bpfDir)
}

// cleanPins removes programs and tables. Other entries do not belong to Fairlead;
// they stay, and the directories that hold them too.
func cleanPins(dir string) error {
	known := append(maps.Names(), maps.FormerNames()...)
	return errors.Join(
		bpffs.Each(dir, func(path, name string) error {
			if strings.HasPrefix(name, bpffs.ProgsPrefix) {
				return os.RemoveAll(path)
			}
			return nil
		}),
		bpffs.Each(filepath.Join(dir, bpffs.MapsDir), func(path, name string) error {
			if slices.Contains(known, strings.TrimSuffix(name, bpffs.NextSuffix)) {
				return bpffs.Remove(path)
			}
			return nil
		}),
		bpffs.RemoveSubdirs(dir),
	)
}

// removeFormer removes the pins of tables that only earlier builds use, when their programs are gone.
func removeFormer(dir string) error {
	var errs []error
	for _, name := range maps.FormerNames() {
		errs = append(errs, bpffs.Remove(filepath.Join(dir, bpffs.MapsDir, name)))
	}
	return errors.Join(errs...)
}
