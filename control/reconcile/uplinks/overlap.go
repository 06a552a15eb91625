// SPDX-License-Identifier: Apache-2.0

package uplinks

import (
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
)

// warnOverlaps warns once about each other device of the host that has an address in a network's
// subnet. A new network avoids the host's subnets, but a container engine that starts later
// restores its own.
func (u *Uplinks) warnOverlaps(host *device.State, nets []*model.Network) {
	others := make(map[uint32]string) // names of devices
	for _, l := range host.Links {
		if !l.Ours() && !l.Loopback {
			others[l.Index] = l.Name
		}
	}
	now := make(map[overlap]bool)
	for _, a := range host.Addrs {
		device, ok := others[a.IfIndex]
		if !ok {
			continue
		}
		for _, n := range nets {
			for _, s := range n.Subnets {
				o := overlap{n.ID, a.IfIndex}
				if !s.Prefix.Contains(a.Prefix.Addr()) || now[o] {
					continue
				}
				if now[o] = true; !u.overlaps[o] {
					u.log.Warn("host device overlaps a network's subnet; traffic to either may be misrouted",
						"network", n.Name, "subnet", s.Prefix, "device", device, "address", a.Prefix,
						"remedy", "recreate one of the two with another subnet")
				}
			}
		}
	}
	u.overlaps = now
}

// overlap is a network, by ID, and a device that is not Fairlead's.
type overlap struct {
	network string
	device  uint32
}
