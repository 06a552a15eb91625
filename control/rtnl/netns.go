// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNoNetNS is returned when a path does not exist (any more) or is not a network namespace.
var ErrNoNetNS = errors.New("no network namespace there")

// ErrHost is returned when the path of a sandbox is the handle's own namespace, the host's: by
// mistake, or because the process at this path ended and a process of the host has its PID now.
// It is an ErrNoNetNS.
var ErrHost error = hostError{}

type hostError struct{}

func (hostError) Error() string { return "this is the host's own network namespace" }

// Is makes hostError match ErrNoNetNS.
func (hostError) Is(target error) bool { return target == ErrNoNetNS }

// NetNS is an open network namespace. It stays valid until Close, even if its path is removed.
type NetNS struct {
	file *os.File
}

// OpenNetNS opens the namespace at path. It returns ErrNoNetNS if there is none.
func OpenNetNS(path string) (*NetNS, error) {
	// O_NONBLOCK: a FIFO must not block the caller.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open network namespace %q: %w", path, ErrNoNetNS)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("open network namespace %q: %w", path, ErrNoNetNS)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("open network namespace %q: another kind of namespace: %w", path, ErrNoNetNS)
	}
	return &NetNS{file: f}, nil
}

// CurrentNetNS opens the namespace of the calling thread.
func CurrentNetNS() (*NetNS, error) {
	return OpenNetNS("/proc/thread-self/ns/net")
}

// Close releases the namespace.
func (ns *NetNS) Close() error { return ns.file.Close() }

// Inode identifies the namespace among all of this boot: it is the inode of /proc/PID/ns/net of
// every process in it.
func (ns *NetNS) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns.FD(), &st); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return st.Ino, nil
}

// same reports whether ns and o are the same namespace.
func (ns *NetNS) same(o *NetNS) (bool, error) {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(ns.FD(), &a), unix.Fstat(o.FD(), &b)); err != nil {
		return false, fmt.Errorf("identify network namespace: %w", err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// FD returns the descriptor, valid until Close.
func (ns *NetNS) FD() int { return int(ns.file.Fd()) }

// Do runs fn on a thread in the namespace. fn must not start goroutines that rely on it.
func (ns *NetNS) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return nil
	}, fn)
}

// CreateNetNS creates a network namespace, prepares it, and bind-mounts it at path. An existing one is kept; a
// file left by an interrupted call is used.
func CreateNetNS(path string, prepare ...func() error) error {
	if ns, err := OpenNetNS(path); err == nil {
		return ns.Close()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	f.Close()
	return InNewNetNS(func() error {
		for _, f := range prepare {
			if err := f(); err != nil {
				return err
			}
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount network namespace at %q: %w", path, err)
		}
		return nil
	})
}

// InNewNetNS runs fn on a thread in a new network namespace, which exists for as long as fn or
// what it opened there, such as a socket.
func InNewNetNS(fn func() error) error { return onThread(unshareNetNS, fn) }

// unshareNetNS moves the calling thread into a new network namespace.
func unshareNetNS() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	return nil
}

// RemoveNetNS unmounts the namespace at path and removes the file. A missing path is not an
// error. The namespace itself exists as long as a process is in it.
func RemoveNetNS(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // mounts may be stacked
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("unmount network namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// onThread runs enter, which changes the thread's network namespace, and then fn, on a separate
// thread, and restores the thread's namespace. It is the only place where namespaces are
// switched. A thread that cannot be restored stays locked and ends with its goroutine, so it
// never runs anything else.
func onThread(enter, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("network namespace: function did not return")
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open the thread's network namespace: %w", openErr)
			return
		}
		defer home.Close()
		if enterErr := enter(); enterErr != nil {
			runtime.UnlockOSThread()
			err = enterErr
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("return to network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return <-done
}
