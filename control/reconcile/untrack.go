// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// isTracked reports whether, as far as is known, the kernel tracks connections of an endpoint in
// its sandbox although its network is untracked.
func (p *pass) isTracked(b *sandbox, e *endpoint) bool {
	n := p.r.networks[e.want.NetworkID]
	return n != nil && n.want != nil && n.want.Untracked && !slices.Contains(b.untracked, e.ends.Peer)
}

// untrack exempts the devices of untracked networks in a sandbox's namespace from connection
// tracking. A device that an engine has not moved yet is exempted once it is up.
func (p *pass) untrack(b *sandbox, members []*endpoint) error {
	var devices []uint32
	var outer rtnl.Link // a host end of an engine-managed sandbox
	for _, e := range members {
		n := p.r.networks[e.want.NetworkID]
		if n == nil || n.want == nil || !n.want.Untracked {
			continue
		}
		if b.want.ManagedBy == model.ByEngine {
			l, err := p.r.nl.Link(e.ends.Host)
			if errors.Is(err, rtnl.ErrNoDevice) || err == nil && !l.Running {
				continue
			}
			if err != nil {
				return err
			}
			e.ends.Peer, outer = l.PeerIndex, l
		}
		devices = append(devices, e.ends.Peer)
	}
	if len(devices) == 0 && (b.want.ManagedBy == model.ByEngine || len(b.untracked) == 0) {
		b.untracked = nil // the container ended or left the network
		return nil
	}
	slices.Sort(devices)
	ns, err := p.openNetNS(b, outer)
	if err != nil {
		return fmt.Errorf("install notrack rules: %w", err)
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

// openNetNS opens a sandbox's namespace. An engine-managed one is found as the namespace of the
// peer of outer.
func (p *pass) openNetNS(b *sandbox, outer rtnl.Link) (*rtnl.NetNS, error) {
	if b.want.ManagedBy == model.ByEngine {
		return p.r.nl.PeerNetNS(outer)
	}
	return p.r.nl.OpenSandboxNetNS(b.want.NetNS)
}
