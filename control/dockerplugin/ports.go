// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// portBinding is one published port. A range arrives as one binding per port. If HostPortEnd is
// greater than HostPort, any free port between them is requested.
type portBinding struct {
	Proto       uint8
	Port        uint16
	HostIP      string // "" for every address
	HostPort    uint16 // 0 for any
	HostPortEnd uint16
}

// portSpecs returns the bindings in the form of -p. The engine's order is random; they are
// sorted, so that a repeated request is the same.
func portSpecs(bindings []portBinding) ([]model.PortSpec, error) {
	specs := make([]model.PortSpec, 0, len(bindings))
	for _, b := range bindings {
		s, err := b.spec()
		if err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	slices.SortFunc(specs, func(a, b model.PortSpec) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.HostIP.Compare(b.HostIP), cmp.Compare(a.Port, b.Port), cmp.Compare(a.HostPort, b.HostPort))
	})
	return specs, nil
}

func (b *portBinding) spec() (model.PortSpec, error) {
	s := model.PortSpec{Proto: model.Proto(b.Proto), Port: b.Port, Count: 1, HostPort: b.HostPort}
	switch {
	case b.HostPort == 0: // any
	case b.HostPortEnd > b.HostPort:
		s.HostCount = b.HostPortEnd - b.HostPort + 1
	default:
		s.HostCount = 1
	}
	if b.HostIP == "" {
		return s, nil
	}
	a, err := netip.ParseAddr(b.HostIP)
	if err != nil {
		return s, refuse("invalid host address %q of port %d: %v", b.HostIP, b.Port, err)
	}
	s.HostIP = a.Unmap()
	return s, nil
}
