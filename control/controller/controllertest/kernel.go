// SPDX-License-Identifier: Apache-2.0

// Package controllertest is for tests of what speaks to a controller: a kernel
// that takes whatever it is told.
package controllertest

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
)

// Kernel implements the controller's. Another program has the port Busy.
type Kernel struct{ Busy uint16 }

// Apply does nothing.
func (Kernel) Apply(context.Context, *model.Snapshot) error { return nil }

// HostPrefixes has none.
func (Kernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return nil, nil }

// HostAddr has none.
func (Kernel) HostAddr(context.Context, netip.Prefix) (string, netip.Addr, error) {
	return "", netip.Addr{}, nil
}

// PortFree reports whether Busy is none of the ports.
func (k Kernel) PortFree(_ model.Proto, _ netip.Addr, port, count uint16) error {
	if port <= k.Busy && k.Busy-port < count {
		return syscall.EADDRINUSE
	}
	return nil
}

// InnerEnd is always with the engine.
func (Kernel) InnerEnd(*model.Endpoint) (model.InnerEnd, error) { return model.InnerTaken, nil }

// VanishedSandboxes lists none.
func (Kernel) VanishedSandboxes(time.Duration) []string { return nil }

// EphemeralRange is Linux's default.
func (Kernel) EphemeralRange() (lo, hi uint16) { return 32768, 60999 }
