// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"path/filepath"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
)

// sweep removes Fairlead's devices that belong to no object, and in the first pass the namespaces
// too. It runs first, since their peers may have names that are needed.
func (p *pass) sweep() error {
	wanted := make(map[string]bool)
	add := func(kind device.Kind, s device.Spec) {
		for _, name := range kind.Names(s) {
			wanted[name] = true
		}
	}
	for n := range p.s.Networks() {
		if hasDevice(n) {
			add(p.r.kinds.HostPort, device.Spec{ID: n.ID, Network: n})
		}
	}
	for e := range p.s.Endpoints() {
		if n := p.s.Network(e.NetworkID); n != nil && e.SandboxID != "" {
			add(p.r.kinds.Of(n), device.Spec{ID: e.ID, Network: n, Endpoint: e, EngineManaged: isEngineManaged(p.s, e)})
		}
	}
	errs := []error{p.host.Sweep(wanted, p.r.log)}
	if p.first && p.r.cfg.NetNSDir != "" {
		errs = append(errs, p.sweepNamespaces())
	}
	return errors.Join(errs...)
}

func (p *pass) sweepNamespaces() error {
	wanted := make(map[string]bool)
	for b := range p.s.Sandboxes() {
		wanted[filepath.Clean(b.NetNS)] = true
	}
	return p.r.namespaces.Sweep(p.r.cfg.NetNSDir, wanted)
}
