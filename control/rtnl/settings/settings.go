// SPDX-License-Identifier: Apache-2.0

// Package settings writes the settings (sysctls) of network namespaces that users chose.
package settings

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Try writes settings in a network namespace that is discarded, to find out whether the kernel takes them.
func Try(settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	return rtnl.InNewNetNS(func() error { return Write(settings) })
}

// resetting is a setting that resets others, so it is written first.
const resetting = "net.ipv4.ip_forward"

// Write writes settings of the calling thread's network namespace, by name: net.ipv4.ip_forward.
func Write(settings map[string]string) error {
	names := slices.SortedFunc(maps.Keys(settings), func(a, b string) int {
		if first := a == resetting; first != (b == resetting) {
			if first {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		err := writeSetting(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")), settings[name])
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EISDIR):
			return model.Refuse(model.ErrInvalid, "sysctl %s is not one of a network namespace on this kernel (leave it out; those that are: fairlead run --network none sysctl -a)", name)
		case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
			return model.Refuse(model.ErrInvalid, "sysctl %s cannot be set for one network namespace (leave it out)", name)
		case err != nil:
			return model.Refuse(model.ErrInvalid, "sysctl %s cannot be %q: %v (choose another value)", name, settings[name], err)
		}
	}
	return nil
}

func writeSetting(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(value)
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return err
}
