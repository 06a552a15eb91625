// SPDX-License-Identifier: Apache-2.0

// Package controllertest provides a fake kernel for tests of code that uses a
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

// Kernel implements controller.Kernel and accepts everything. Another program uses the
// port Busy.
type Kernel struct{ Busy uint16 }

// Apply does nothing.
func (Kernel) Apply(context.Context, *desired.Snapshot) error { return nil }

// HostPrefixes returns none.
func (Kernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return nil, nil }

// HostAddr finds none.
func (Kernel) HostAddr(context.Context, netip.Prefix) (string, netip.Addr, error) {
	return "", netip.Addr{}, nil
}

// PortFree returns an error if Busy is one of the ports.
func (k Kernel) PortFree(_ model.Proto, _ netip.Addr, port, count uint16) error {
	if port <= k.Busy && k.Busy-port < count {
		return syscall.EADDRINUSE
	}
	return nil
}

// InnerEnd is always in the engine's namespace.
func (Kernel) InnerEnd(*model.Endpoint) (model.InnerEnd, error) { return model.InnerTaken, nil }

// VanishedSandboxes returns none.
func (Kernel) VanishedSandboxes(time.Duration) []string { return nil }

// EphemeralRange returns the default of Linux.
func (Kernel) EphemeralRange() (lo, hi uint16) { return 32768, 60999 }
