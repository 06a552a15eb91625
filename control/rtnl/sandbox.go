// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"fmt"
	"os"
	"path/filepath"
)

// OpenSandboxNetNS opens the namespace at path, which must not be the handle's own. It returns
// ErrHost if it is, by whatever path, and ErrNoNetNS if there is none.
func (h *Handle) OpenSandboxNetNS(path string) (*NetNS, error) {
	ns, err := OpenNetNS(path)
	if err != nil {
		return nil, err
	}
	same, err := h.ns.same(ns)
	if err == nil && same {
		err = fmt.Errorf("open network namespace %q: %w", path, ErrHost)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// PeerNetNS opens the namespace of the peer of a host's device, by way of a process in it. It
// returns ErrNoNetNS if there is none, or none that is visible. A container engine's path of a
// namespace need not exist outside of the engine.
func (h *Handle) PeerNetNS(l Link) (*NetNS, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, path := range paths {
		name, err := os.Readlink(path)
		if err != nil || seen[name] { // it exited, or may not be inspected
			continue
		}
		seen[name] = true
		ns, err := OpenNetNS(path)
		if err != nil {
			continue
		}
		if id, err := h.conn.NetNSID(ns); err == nil && id >= 0 && id == l.PeerNSID {
			return ns, nil
		}
		ns.Close()
	}
	return nil, fmt.Errorf("no process found in the namespace of the peer of device %q: %w", l.Name, ErrNoNetNS)
}
