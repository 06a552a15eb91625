// SPDX-License-Identifier: Apache-2.0

// Package controllertest provides a fake kernel and host for tests of code that uses a
// controller.
package controllertest

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// Kernel implements what the verbs need to know of the kernel, and accepts everything.
type Kernel struct{}

// Host implements txn.HostFacts of a host without networks. Another program uses the
// port Busy.
type Host struct{ Busy uint16 }

// Accept does nothing.
func (Kernel) Accept(context.Context, *desired.Snapshot) func() error {
	return func() error { return nil }
}

// HostPrefixes returns none.
func (Host) HostPrefixes(context.Context) ([]netip.Prefix, error) { return nil, nil }

// HostAddr finds none.
func (Host) HostAddr(context.Context, netip.Prefix) (string, netip.Addr, error) {
	return "", netip.Addr{}, nil
}

// PortFree returns an error if Busy is one of the ports.
func (h Host) PortFree(_ model.Proto, _ netip.Addr, port, count uint16) error {
	if port <= h.Busy && h.Busy-port < count {
		return syscall.EADDRINUSE
	}
	return nil
}

// InnerEnd is always in the engine's namespace.
func (Kernel) InnerEnd(*model.Endpoint) (model.InnerEnd, error) { return model.InnerTaken, nil }

// VanishedSandboxes returns none.
func (Kernel) VanishedSandboxes(time.Duration) []string { return nil }

// EphemeralRange returns the default of Linux.
func (Host) EphemeralRange() (lo, hi uint16) { return 32768, 60999 }
