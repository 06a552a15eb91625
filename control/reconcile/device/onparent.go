// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
)

// onParent is an endpoint's macvlan or ipvlan device, on top of the network's parent device. The kernel creates it in the
// sandbox: the host never has it, nor a program of Fairlead. Its alias is set last but its addresses, which each
// check adds if they are missing.
type onParent struct {
	nl   *rtnl.Handle
	kind string
}

// Names returns none: no device of the host belongs to the endpoint.
func (k *onParent) Names(Spec) []string { return nil }

// Check believes what is known; the check of the sandbox finds out.
func (k *onParent) Check(_ *Host, _ Spec, have Ends) (Found, bool) {
	return Found{Peer: rtnl.Link{Index: have.Peer}, Finished: true}, have.Exist()
}

func (k *onParent) Adopt(h *Host, s Spec, have Ends) (Found, bool, error) {
	f, ok := k.Check(h, s, have)
	return f, ok, nil
}

func (k *onParent) Find(s Spec) (Found, bool, error) {
	l, ok, err := stacked.Find(s.NetNS, k.kind, rtnl.SandboxAlias(s.ID), s.Endpoint.IfName)
	if err != nil || !ok {
		return Found{}, false, err
	}
	f := Found{Peer: l, Finished: l.Alias != "" && l.PeerIndex == s.Parent}
	if !f.Finished {
		return Found{}, false, stacked.Delete(s.NetNS, l.Index)
	}
	return f, true, nil
}

func (k *onParent) Create(s Spec) (f Found, err error) {
	n := s.Network
	if l, err := k.nl.LinkByName(n.Parent); n.Parent != "" && (err != nil || l.Index != s.Parent) {
		if err == nil || errors.Is(err, rtnl.ErrNoDevice) {
			err = noParent(n)
		}
		return f, err
	}
	err = stacked.Create(k.nl, s.NetNS, stacked.Device{
		Kind: k.kind, Name: s.Endpoint.IfName, Parent: s.Parent, MAC: s.Endpoint.MAC, MTU: n.MTU, Mode: n.Mode, Flag: n.Flag,
	})
	if err != nil {
		return f, err
	}
	f.Peer, _, err = stacked.Find(s.NetNS, k.kind, rtnl.SandboxAlias(s.ID), s.Endpoint.IfName)
	f.Created = err == nil
	return f, err
}

// Configure does nothing: all of the device is in the sandbox.
func (k *onParent) Configure(*Host, Spec, Found) (configure.Changes, error) {
	return configure.Changes{}, nil
}

// Finish does nothing: the alias is set in the sandbox.
func (k *onParent) Finish(string, Ends) error { return nil }

func (k *onParent) Remove(_ *Host, s Spec, have Ends) error {
	if s.NetNS == nil || !have.Exist() {
		return nil
	}
	l, ok, err := stacked.Find(s.NetNS, k.kind, rtnl.SandboxAlias(s.ID), s.Endpoint.IfName)
	if err != nil || !ok {
		return err
	}
	return stacked.Delete(s.NetNS, l.Index)
}

func (k *onParent) Places(Ends) []Place { return nil }

func (k *onParent) Inside(s Spec, have Ends, fresh bool) configure.Device {
	d := insideOf(s, have, fresh)
	d.MTU = s.Network.MTU
	if s.Endpoint.Lease != nil {
		lease(&d, s, time.Now())
	}
	d.On = &stacked.Device{Kind: k.kind, Parent: s.Parent, Mode: s.Network.Mode, Flag: s.Network.Flag}
	return d
}

// lease makes the IPv4 address of a device one that ends with its lease.
func lease(d *configure.Device, s Spec, now time.Time) {
	ep := s.Endpoint
	d.Lease = new(configure.Lease)
	d.Addrs = slices.DeleteFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
	if state := ep.LeaseState(now); state == model.LeaseNone || state == model.LeaseExpired {
		return
	}
	*d.Lease = configure.Lease{Address: ep.IPv4, Until: ep.Lease.Until()}
	if gw := s.Network.DefaultGateway(ep, model.V4); ep.DefaultRoute4 && gw.IsValid() {
		d.Gateways = append(d.Gateways, gw)
	}
}

// InnerEnd is asked about the endpoints of engines only, which have no such devices.
func (k *onParent) InnerEnd(*model.Endpoint, Ends) (model.InnerEnd, error) {
	return model.InnerTaken, nil
}
