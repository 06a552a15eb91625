// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/announce"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/server"
	"github.com/fairlead-net/fairlead/control/model"
)

var _ server.Announcer = (*Node)(nil)

// CreateService implements [server.Services]. An address that is to be announced must be in the subnet of a
// device here: the controller does not use the kernel.
func (b *Node) CreateService(ctx context.Context, spec model.ServiceSpec) (*model.Service, error) {
	if spec.Announce {
		if err := b.checkAnnounced(spec); err != nil {
			return nil, err
		}
	}
	return b.Controller.CreateService(ctx, spec)
}

func (b *Node) checkAnnounced(spec model.ServiceSpec) error {
	addrs, err := b.cfg.Handle.Addrs()
	if err != nil {
		return err
	}
	links, err := b.cfg.Handle.Links()
	if err != nil {
		return err
	}
	for _, p := range spec.Ports {
		a := p.HostIP.Unmap()
		if !a.IsGlobalUnicast() {
			continue // the controller refuses it
		}
		if _, ok := announce.Places(links, addrs, []netip.Addr{a})[a]; ok {
			continue
		}
		var subnets []string
		for _, has := range addrs {
			switch {
			case has.Announced || !has.IsGlobal():
			case has.Prefix.Addr() == a:
				return model.Refuse(model.ErrInvalid, "%s is an address of this host itself (leave out --announce, or choose an address that no host has)", a)
			case !has.Prefix.IsSingleIP() && model.FamilyOf(a) == model.FamilyOf(has.Prefix.Addr()):
				for i := range links {
					if l := &links[i]; l.Index == has.IfIndex && !l.Ours() && !l.Loopback {
						subnets = append(subnets, fmt.Sprintf("%s of %s", has.Prefix.Masked(), l.Name))
					}
				}
			}
		}
		slices.Sort(subnets)
		remedy := "give the host one there"
		if len(subnets) > 0 {
			remedy = "choose an address in " + strings.Join(slices.Compact(subnets), ", ")
		}
		return model.Refuse(model.ErrInvalid, "%s cannot be announced: no device of this host has an address in its subnet (%s)", a, remedy)
	}
	return nil
}

// Announced implements [server.Announcer].
func (b *Node) Announced(svc *model.Service) (list []api.AnnouncedAddress) {
	states, _ := b.cfg.Announcer.States()
	nodes := map[string]string{} // names by MAC
	self := ""
	if b.cfg.Cluster != nil {
		for _, n := range b.cfg.Cluster.Peers.Nodes() {
			for mac := range strings.SplitSeq(n.MACs, ",") {
				nodes[mac] = n.Name
			}
			if n.Self {
				self = n.Name
			}
		}
	}
	for _, p := range svc.Ports {
		if slices.ContainsFunc(list, func(o api.AnnouncedAddress) bool { return o.Address == p.HostIP.String() }) {
			continue
		}
		st := states[p.HostIP]
		row := api.AnnouncedAddress{Address: p.HostIP.String(), Here: st.Here, Device: st.Device}
		if st.Owner != (model.MAC{}) {
			row.MacAddress = st.Owner.String()
			row.Node = nodes[row.MacAddress]
		}
		if st.Here {
			row.Node = self
		}
		list = append(list, row)
	}
	return list
}
