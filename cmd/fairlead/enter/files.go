// SPDX-License-Identifier: Apache-2.0

package enter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files are the paths of a sandbox's files, as the daemon sees them. "" leaves that of the host.
type Files struct{ Hosts, Hostname, ResolvConf string }

// mounted calls start in a new mount namespace in which the files are mounted over those of the host. What the host
// mounts later is visible there, and not the reverse. The calling thread returns to its previous namespace.
func (f Files) mounted(daemonPid int, start func() error) (retErr error) {
	if f == (Files{}) {
		return start()
	}
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return fmt.Errorf("open mount namespace: %w", err)
	}
	defer home.Close()
	dir, err := unix.Open(".", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the current directory: %w", err)
	}
	defer unix.Close(dir)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	defer func() {
		err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Fchdir(dir)
		}
		if err != nil {
			retErr = errors.Join(retErr, fmt.Errorf("return to mount namespace: %w", err))
		}
	}()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for at, from := range map[string]string{"/etc/hosts": f.Hosts, "/etc/hostname": f.Hostname, "/etc/resolv.conf": f.ResolvConf} {
		// A file that the host does not have cannot be replaced without touching the host's directory.
		if from == "" || missing(at) {
			continue
		}
		if err := mountFile(from, at, daemonPid); err != nil {
			return fmt.Errorf("mount %s at %s: %w", from, at, err)
		}
	}
	return start()
}

// mountFile mounts a file over another. If the daemon is in a different mount namespace, from which nothing can
// be mounted, it mounts a copy: changes do not reach that.
func mountFile(from, at string, daemonPid int) error {
	err := unix.Mount(from, at, "", unix.MS_BIND, "")
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", daemonPid, from))
	if err != nil {
		return err
	}
	const scratch = "/tmp" // exists everywhere, and is uncovered before the program starts
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(scratch, unix.MNT_DETACH) }() // of this namespace
	copied := filepath.Join(scratch, "file")
	if err := os.WriteFile(copied, text, 0o644); err != nil {
		return err
	}
	return unix.Mount(copied, at, "", unix.MS_BIND, "")
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
