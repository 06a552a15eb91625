// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// prefix is the prefix of the names of what is made outside of namespaces.
func prefix() string { return fmt.Sprintf("fl-bench-%d-", os.Getpid()) }

// Sweep removes what killed runs have left: directories and cgroups. Their programs and
// networks ended with them.
func Sweep() error {
	var errs []error
	for _, where := range []string{os.TempDir(), "/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(where, "fl-bench-*-*"))
		errs = append(errs, err)
		for _, path := range found {
			var pid int
			if _, err := fmt.Sscanf(filepath.Base(path), "fl-bench-%d-", &pid); err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				continue
			}
			if where == os.TempDir() {
				errs = append(errs, os.RemoveAll(path))
			} else {
				errs = append(errs, removeTree(path))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	return nil
}
