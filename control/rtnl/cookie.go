// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// NetNSCookie identifies the network namespace of this process until the next reboot. The socket
// programs serve no other namespace.
func NetNSCookie() (_ uint64, retErr error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket to read the namespace cookie: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, unix.Close(fd)) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the namespace cookie: %w", err)
	}
	return cookie, nil
}
