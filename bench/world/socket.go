// SPDX-License-Identifier: Apache-2.0

package world

import "net"

// Listening returns nil once a program listens at a Unix socket. Until then it is an error that costs no process, as a
// command of a client would.
func Listening(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		err = c.Close()
	}
	return err
}
