// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sockaddr converts an address to the kernel's representation.
func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dial connects a socket of a kind to an address.
func dial(kind int, a netip.AddrPort) (int, error) {
	family, sa := sockaddr(a)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", a, err)
	}
	return fd, nil
}

// dialTCP connects to an address and sends small messages without delay (TCP_NODELAY).
func dialTCP(a netip.AddrPort) (int, error) {
	fd, err := dial(unix.SOCK_STREAM, a)
	if err != nil {
		return -1, err
	}
	return fd, noDelay(fd)
}

func noDelay(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		unix.Close(fd)
		return fmt.Errorf("turn off delay: %w", err)
	}
	return nil
}

// bind makes a socket of a kind at an address.
func bind(kind int, a netip.AddrPort) (int, error) {
	family, sa := sockaddr(a)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, fmt.Errorf("reuse addresses: %w", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("bind to %s: %w", a, err)
	}
	return fd, nil
}

// acceptEach passes one connection after the other to serve, which closes it. It returns only
// with an error.
func acceptEach(a netip.AddrPort, serve func(fd int)) error {
	l, err := bind(unix.SOCK_STREAM, a)
	if err != nil {
		return err
	}
	if err := unix.Listen(l, 1024); err != nil {
		return fmt.Errorf("listen at %s: %w", a, err)
	}
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			return fmt.Errorf("accept at %s: %w", a, err)
		}
		serve(fd)
	}
}

// readFull fills b.
func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		b = b[n:]
	}
	return nil
}

// writeAll writes all of b.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// exchange writes b and reads the same number of bytes.
func exchange(fd int, b []byte) error {
	if err := writeAll(fd, b); err != nil {
		return err
	}
	return readFull(fd, b)
}
