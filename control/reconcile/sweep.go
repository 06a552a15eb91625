// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// sweep removes Fairlead's devices that belong to no object, and in the first pass the namespaces
// too. It runs first, since their peers may have names that are needed.
func (p *pass) sweep() error {
	wanted := make(map[string]bool)
	for n := range p.s.Networks() {
		if !hasDevice(n) {
			continue
		}
		id := n.ID
		wanted[rtnl.GatewayAlias(id)], wanted[rtnl.GatewayDevice(id)] = true, true
		wanted[rtnl.HostPortAlias(id)], wanted[rtnl.HostPortDevice(id)] = true, true
	}
	for e := range p.s.Endpoints() {
		if e.SandboxID == "" {
			continue
		}
		id := e.ID
		wanted[rtnl.EndpointAlias(id)], wanted[rtnl.EndpointDevice(id)] = true, true
		if isEngineManaged(p.s, e) {
			wanted[e.IfName] = true // until the engine moves it, and after the engine moved it back
		}
	}
	var stale []uint32
	for _, l := range p.links {
		// An unfinished device that is wanted is handled where devices are created.
		if l.Ours() && !wanted[l.Alias] && (l.Alias != "" || !wanted[l.Name]) {
			p.r.log.Info("removed leftover device", "device", l.Name, "alias", l.Alias)
			stale = append(stale, l.Index)
		}
	}
	errs := []error{p.r.nl.DeleteLinks(stale)}
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
	files, err := os.ReadDir(p.r.cfg.NetNSDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for leftover network namespaces: %w", err)
	}
	var errs []error
	for _, f := range files {
		path := filepath.Join(p.r.cfg.NetNSDir, f.Name())
		if !wanted[path] && !f.IsDir() {
			p.r.log.Info("removed leftover network namespace", "path", path)
			errs = append(errs, rtnl.RemoveNetNS(path))
		}
	}
	return errors.Join(errs...)
}
