// SPDX-License-Identifier: Apache-2.0

// Package socket inspects Unix sockets: the process at the other end, and the sockets that listen at a path.
package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Peer returns the credentials of the peer process of a connection, as reported by the kernel.
func Peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, credErr)
}

// Listener returns the inode, as shown in /proc/net/unix (proc_net_unix(5)), of a socket of this
// network namespace that listens at a path, whose directory may contain symbolic links. It
// returns "" if there is none.
func Listener(path string) (inode string, err error) {
	const flags, number, name, accepting = 3, 6, 7, 0x10000 // fields, and __SO_ACCEPTCON
	table, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return "", err
	}
	path = resolved(path)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) <= name || filepath.Base(fields[name]) != filepath.Base(path) || resolved(fields[name]) != path {
			continue
		}
		if f, err := strconv.ParseUint(fields[flags], 16, 32); err == nil && f&accepting != 0 {
			return fields[number], nil
		}
	}
	return "", nil
}

// IsOpenIn reports whether a process has a socket open, even if another process (such as
// systemd) created it.
func IsOpenIn(pid int, inode string) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		to, err := os.Readlink(filepath.Join(dir, fd.Name())) // fails if it was closed meanwhile
		return err == nil && to == "socket:["+inode+"]"
	}), err
}

// IsServed reports whether a process serves a socket. It does not connect to a socket that is
// known to listen, since it may be systemd's and start a daemon.
func IsServed(path string) bool {
	if inode, err := Listener(path); err == nil && inode != "" {
		return true
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// resolved returns a socket's path without symbolic links in its directory.
func resolved(path string) string {
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}
