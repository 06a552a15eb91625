// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// isTracked reports whether the kernel tracks an endpoint's packets in its sandbox,
// as far as is known, though its network does not want that.
func (p *pass) isTracked(b *sandbox, e *endpoint) bool {
	n := p.r.networks[e.want.NetworkID]
	return n != nil && n.want != nil && n.want.Untracked && !slices.Contains(b.untracked, e.peerIf)
}

// untrack sees to it that in a sandbox's namespace the packets of networks that want
// that are not tracked. What a container engine did not take yet comes when it is up.
func (p *pass) untrack(b *sandbox, members []*endpoint) error {
	var devices []uint32
	var outer uint32 // a host end
	for _, e := range members {
		n := p.r.networks[e.want.NetworkID]
		if n == nil || n.want == nil || !n.want.Untracked {
			continue
		}
		if b.want.Foreign {
			l, err := p.r.nl.Link(e.hostIf)
			if errors.Is(err, rtnl.ErrNoDevice) || err == nil && !l.Running {
				continue
			}
			if err != nil {
				return err
			}
			e.peerIf = l.PeerIndex
		}
		devices, outer = append(devices, e.peerIf), e.hostIf
	}
	if len(devices) == 0 && len(b.untracked) == 0 {
		return nil
	}
	slices.Sort(devices)
	if b.want.Foreign && len(devices) == 0 {
		b.untracked = nil // the container ended, or left the network: the rules name no device
		return nil
	}
	ns, err := p.openInside(b, outer)
	if err != nil {
		return fmt.Errorf("connections in the sandbox are tracked: %w", err)
	}
	defer ns.Close()
	changed, err := rtnl.Untrack(ns, devices)
	if err != nil {
		return err
	}
	if changed && slices.Equal(b.untracked, devices) {
		p.count(RepairRule, 1)
	}
	b.untracked = devices
	return nil
}

// openInside opens a sandbox's namespace, which has the other end of a host's device.
func (p *pass) openInside(b *sandbox, hostIf uint32) (*rtnl.NetNS, error) {
	if b.want.Foreign {
		return p.r.nl.PeerNetNS(hostIf)
	}
	return rtnl.OpenNetNS(b.want.NetNS)
}
