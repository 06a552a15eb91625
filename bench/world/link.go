// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// End is one end of a cable.
type End struct {
	Host      *Host
	Device    string
	Addresses []string // with prefix length
}

// Cable connects two hosts with a veth pair. Both ends carry packets when it returns.
func Cable(a, b End) error {
	err := a.Host.IP(fmt.Sprintf("link add name %s type veth peer name %s netns %s", a.Device, b.Device, b.Host.NetNS()))
	if err != nil {
		return err
	}
	for _, end := range []End{a, b} {
		var commands []string
		for _, addr := range end.Addresses {
			command := fmt.Sprintf("addr add %s dev %s", addr, end.Device)
			if strings.Contains(addr, ":") {
				command += " nodad" // accept_dad=0 leaves it tentative until a worker of the kernel has run
			}
			commands = append(commands, command)
		}
		if err := end.Host.IP(append(commands, fmt.Sprintf("link set dev %s up", end.Device))...); err != nil {
			return err
		}
	}
	return errors.Join(a.waitUp(), b.waitUp())
}

// waitUp waits until the kernel has detected the carrier: until then it drops what is sent,
// and that may take a second.
func (e End) waitUp() error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		r, err := e.Host.Run(context.Background(), "ip", "-o", "link", "show", "dev", e.Device)
		if err != nil {
			return err
		}
		if strings.Contains(r.Output(), " state UP ") {
			return nil
		}
	}
	return fmt.Errorf("device %s got no carrier in 5 seconds", e.Device)
}
