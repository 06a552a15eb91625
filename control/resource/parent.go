// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// planParent completes a network whose endpoints' devices are on top of another, and checks that no other network prevents that.
func planParent(t *txn.Tx, n *model.Network) error {
	switch {
	case n.Driver == model.DriverMacvlan && n.Mode == "":
		n.Mode = model.ModeBridge
	case n.Driver == model.DriverIPvlan:
		if n.Mode == "" {
			n.Mode = model.ModeL2
		}
		if n.Flag == "" {
			n.Flag = model.ModeBridge
		}
	}
	if n.HostAccess && n.Mode != model.ModeBridge {
		return model.Refuse(model.ErrInvalid, "option %s is for macvlan networks in mode bridge: in mode %s members do not reach other devices of the parent (leave it out, or choose that mode)", model.OptHostAccess, n.Mode)
	}
	switch _, _, vlan := n.VLAN(); {
	case n.Driver != model.DriverLAN:
	case n.Parent == "":
		return model.Refuse(model.ErrInvalid, "a network of driver lan needs a parent, on whose link its members are (give one: -o parent=)")
	case vlan:
		return model.Refuse(model.ErrNotSupported, "parent interface %s of a network of driver lan would be a VLAN, which is not supported (name the device itself, or use driver macvlan)", n.Parent)
	case n.Internal:
		return model.Refuse(model.ErrInvalid, "a network of driver lan is not internal: its members are on the link of %s (leave out --internal)", n.Parent)
	}
	if n.Parent == "" {
		n.Internal = true
		return nil
	}
	for o := range t.Next.Networks() {
		const remedy = "(choose another parent, for example a VLAN like %s.50)"
		switch {
		case o.Parent != n.Parent:
		case o.Driver != n.Driver:
			return model.Refuse(model.ErrForbidden, "%s network %s is already using parent interface %s, which cannot have devices of both kinds "+remedy, o.Driver, o.Name, n.Parent, n.Parent)
		case n.Driver == model.DriverIPvlan, n.Driver == model.DriverLAN:
			return model.Refuse(model.ErrForbidden, "network %s is already using parent interface %s "+remedy, o.Name, n.Parent, n.Parent)
		case n.Mode == model.ModePassthru:
			return model.Refuse(model.ErrForbidden, "cannot use mode passthru, macvlan network %s is already using parent interface %s "+remedy, o.Name, n.Parent, n.Parent)
		case o.Mode == model.ModePassthru:
			return model.Refuse(model.ErrForbidden, "macvlan network %s is already using parent interface %s in mode passthru "+remedy, o.Name, n.Parent, n.Parent)
		}
	}
	return nil
}

// joinHost reserves addresses of the host in a network that it has access to.
func joinHost(t *txn.Tx, n *model.Network) error {
	for f, own := range map[model.Family]*netip.Addr{model.V4: &n.NodeIPv4, model.V6: &n.NodeIPv6} {
		p, err := takeAddr(t, n, f, netip.Addr{})
		if err != nil {
			return err
		}
		*own = p.Addr()
	}
	return nil
}

// chooseParentMAC chooses the MAC of an endpoint whose device is on top of another. It is zero if that is the parent's.
func chooseParentMAC(t *txn.Tx, n *model.Network, spec model.EndpointSpec, ep *model.Endpoint) (model.MAC, error) {
	switch other := desired.First(t.Next.Members(n.ID)); {
	case n.Driver == model.DriverIPvlan && !spec.MAC.IsZero():
		return spec.MAC, model.Refuse(model.ErrInvalid, "members of ipvlan network %s have the MAC address of its parent (leave out --mac-address)", n.Name)
	case n.Mode == model.ModePassthru && other != nil:
		return spec.MAC, model.Refuse(model.ErrForbidden, "macvlan network %s in mode passthru has room for one sandbox, which is %s (remove or disconnect that)", n.Name, t.Next.SandboxName(other.SandboxID))
	case n.Driver == model.DriverIPvlan, n.Mode == model.ModePassthru && spec.MAC.IsZero():
		return model.MAC{}, nil
	}
	return chooseMAC(t, n, spec.MAC, firstAddr(ep))
}
