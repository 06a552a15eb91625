// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// parentOptions are the options of networks whose endpoints' devices are on top of a device of the host.
var parentOptions = map[string]func(n *model.Network, k, v string) error{
	model.OptParent:      parentOption,
	model.OptMacvlanMode: modeOption(model.DriverMacvlan, model.ModeBridge, model.ModePrivate, model.ModeVEPA, model.ModePassthru),
	model.OptIPvlanMode:  modeOption(model.DriverIPvlan, model.ModeL2, model.ModeL3, model.ModeL3S),
	model.OptIPvlanFlag:  flagOfIPvlan,
	model.OptHostAccess:  flagOption(func(n *model.Network) *bool { return &n.HostAccess }),
	model.OptMTU:         mtuOption,
	OptIfPrefix:          prefixOption,
	OptIPv4:              familyOption,
	OptIPv6:              familyOption,
}

// optionsOf returns the options that networks of a driver have, with the functions that apply a value.
func optionsOf(d model.Driver) map[string]func(n *model.Network, k, v string) error {
	if d.Entries {
		return knownOptions
	}
	return parentOptions
}

// parentOption checks the name of a device. That it exists is found out when it is used.
func parentOption(n *model.Network, k, v string) error {
	switch {
	case v == "lo":
		return model.Refuse(model.ErrInvalid, "loopback interface is not a valid %s parent link (choose another)", n.Driver)
	case v != "" && (!ifNameRule.MatchString(v) || slices.Contains(reservedIfNames, v)):
		return model.Refuse(model.ErrInvalid, "invalid value %q of option %s (want the name of a device of this host, or one like eth0.50 for a VLAN of it)", v, k)
	}
	n.Parent = v
	return nil
}

func modeOption(driver string, modes ...string) func(n *model.Network, k, v string) error {
	return func(n *model.Network, k, v string) error {
		switch {
		case n.Driver != driver:
			return model.Refuse(model.ErrInvalid, "option %s is for networks of driver %s (leave it out)", k, driver)
		case v != "" && !slices.Contains(modes, v):
			return model.Refuse(model.ErrInvalid, "requested %s mode '%s' is not valid (want %s)", driver, v, strings.Join(modes, ", "))
		case v != "":
			n.Mode = v
		}
		return nil
	}
}

func flagOfIPvlan(n *model.Network, k, v string) error {
	flags := []string{model.ModeBridge, model.ModePrivate, model.ModeVEPA}
	switch {
	case n.Driver != model.DriverIPvlan:
		return model.Refuse(model.ErrInvalid, "option %s is for networks of driver %s (leave it out)", k, model.DriverIPvlan)
	case v != "" && !slices.Contains(flags, v):
		return model.Refuse(model.ErrInvalid, "requested ipvlan flag '%s' is not valid (want %s)", v, strings.Join(flags, ", "))
	case v != "":
		n.Flag = v
	}
	return nil
}

// refuseOfBridge refuses an option of bridge networks in a network whose packets no program of Fairlead sees.
func refuseOfBridge(n *model.Network, k string) error {
	if _, ok := knownOptions[k]; !ok || n.Has().Entries {
		return nil
	}
	return model.Refuse(model.ErrInvalid, "option %s has no effect in a network of driver %s: no program of Fairlead sees its packets (leave it out)", k, n.Driver)
}

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
		case n.Driver == model.DriverIPvlan:
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
