// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// socketGroup is the group whose members may use the API, if the group exists.
const socketGroup = "fairlead"

// ListenAPI opens the API socket, for root, and for the group if it exists. The caller holds the
// run directory's lock, so an existing socket is stale.
func (d Dirs) ListenAPI() (_ net.Listener, retErr error) {
	path := d.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	// The umask prevents access by others until chmod.
	mask := syscall.Umask(0o177)
	listener, err := net.Listen("unix", path)
	syscall.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, listener.Close())
		}
	}()
	if err := shareSocket(path); err != nil {
		return nil, err
	}
	return listener, nil
}

// shareSocket sets the group and mode of the socket.
func shareSocket(path string) error {
	group, err := user.LookupGroup(socketGroup)
	var unknown user.UnknownGroupError
	switch {
	case errors.As(err, &unknown), errors.Is(err, fs.ErrNotExist): // no such group, or no /etc/group
	case err != nil:
		return fmt.Errorf("look up group %q: %w", socketGroup, err)
	default:
		gid, err := strconv.Atoi(group.Gid)
		if err != nil {
			return fmt.Errorf("invalid ID %[2]q of group %[1]q: %[3]w", socketGroup, group.Gid, err)
		}
		if err := os.Chown(path, 0, gid); err != nil {
			return fmt.Errorf("set group %q of the API socket: %w", socketGroup, err)
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("set mode of the API socket: %w", err)
	}
	return nil
}
