// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl is one per-device setting of the network stack.
type Sysctl struct {
	Family string // "ipv4" or "ipv6"
	Device string
	Key    string
	Value  string
	// Optional settings may be missing in the kernel.
	Optional bool
}

func (s Sysctl) dir() string {
	return filepath.Join("/proc/sys/net", s.Family, "conf", s.Device)
}

// SetSysctls writes settings of the host's devices.
func (h *Handle) SetSysctls(settings ...Sysctl) error {
	if len(settings) == 0 {
		return nil
	}
	return h.Do(func() error { return WriteSysctls(settings) })
}

// WriteSysctls writes settings of devices of the calling thread's namespace.
func WriteSysctls(settings []Sysctl) error {
	var errs []error
	dir, dirPath := -1, ""
	for _, s := range settings {
		if path := s.dir(); path != dirPath {
			closeDir(dir)
			// Looking up a device's directory is slow when there are many namespaces, since
			// devices of the same name collide in the kernel's dentry cache. So it is looked up
			// once.
			var err error
			if dir, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				dir = -1
			}
			dirPath = path
		}
		err := writeAt(dir, s)
		// The kernel has no IPv6, so there is nothing to set.
		noFamily := s.Family == "ipv6" && errors.Is(err, fs.ErrNotExist) && errors.Is(unix.Access("/proc/sys/net/ipv6", unix.F_OK), unix.ENOENT)
		if err != nil && !noFamily && (!s.Optional || !errors.Is(err, fs.ErrNotExist)) {
			errs = append(errs, fmt.Errorf("set sysctl %s to %s: %w", filepath.Join(s.dir(), s.Key), s.Value, err))
		}
	}
	closeDir(dir)
	return errors.Join(errs...)
}

func closeDir(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// writeAt writes a setting in the directory of its device; dir is -1 if that does not exist.
func writeAt(dir int, s Sysctl) error {
	if dir < 0 {
		return fs.ErrNotExist
	}
	fd, err := unix.Openat(dir, s.Key, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(s.Value))
	return err
}

// ReadSysctl reads a setting of the host's network stack by its path below net, such as
// "ipv4/ip_local_port_range".
func (h *Handle) ReadSysctl(path string) (string, error) {
	var v string
	err := h.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
		v = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return v, nil
}
