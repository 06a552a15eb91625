// SPDX-License-Identifier: Apache-2.0

// Package underlay answers for the host's network below the tunnels to other hosts: which of its
// addresses others reach it by, and how it reaches theirs.
package underlay

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// Underlay is the host's network below the tunnels.
type Underlay struct {
	nl *rtnl.Handle
	// advertised are the addresses that the operator chose; zero: found from default routes.
	advertised [len(model.Families)]netip.Addr
}

// New returns the underlay of a host. advertise lists at most one address a family.
func New(nl *rtnl.Handle, advertise []netip.Addr) *Underlay {
	u := &Underlay{nl: nl}
	for _, a := range advertise {
		u.advertised[model.FamilyOf(a)] = a
	}
	return u
}

// VTEPs returns the addresses of this host that others send to: those that the operator chose, or else
// those of the default routes.
func (u *Underlay) VTEPs() (v4, v6 netip.Addr, err error) {
	v4, v6 = u.advertised[model.V4], u.advertised[model.V6]
	if v4.IsValid() || v6.IsValid() {
		return v4, v6, nil
	}
	return u.nl.DefaultSources()
}

// Path looks up how this host reaches an address. The source is the address that others know, if there
// is one of the family.
func (u *Underlay) Path(to netip.Addr) (hop rtnl.Hop, err error) {
	if hop, err = u.nl.HopTo(to); err != nil || hop.Device == 0 {
		return hop, err
	}
	v4, v6, err := u.VTEPs()
	if own := [...]netip.Addr{model.V4: v4, model.V6: v6}[model.FamilyOf(to)]; own.IsValid() {
		hop.Source = own
	}
	if err != nil || hop.MTU != 0 {
		return hop, err
	}
	hop.MTU, err = u.deviceMTU(hop.Device)
	return hop, err
}

// CheckTunnels refuses an underlay by whose device the programs can neither send nor receive tunnels, since
// its packets have no Ethernet header. The stack sends and receives encrypted ones.
func (u *Underlay) CheckTunnels() error {
	l, _, err := u.device()
	if err != nil || l.Index == 0 || l.Ethernet() {
		return err
	}
	return model.Refuse(model.ErrInvalid, "other hosts reach this one by device %s, whose packets have no Ethernet header (restart the daemon with --advertise ADDRESS of another device, or create the network with: -o encrypted)", l.Name)
}

func (u *Underlay) deviceMTU(index uint32) (int, error) {
	l, err := u.nl.Link(index)
	return l.MTU, err
}

// MTU returns the size of the largest packet to the outside by the addresses that others know, and the
// family that tunnels have then: IPv4 if there is an address of both.
func (u *Underlay) MTU() (mtu int, f model.Family, err error) {
	l, f, err := u.device()
	if err != nil {
		return 0, f, err
	}
	if l.Index == 0 {
		return model.DefaultMTU, f, nil
	}
	return l.MTU, f, nil
}

// device returns the device with the address that others know, of the family that tunnels have then; the
// zero Link: none has it.
func (u *Underlay) device() (l rtnl.Link, f model.Family, err error) {
	v4, v6, err := u.VTEPs()
	if err != nil {
		return l, 0, err
	}
	own := v4
	if f = model.V4; !v4.IsValid() {
		own, f = v6, model.V6
	}
	addrs, err := u.nl.Addrs()
	if err != nil {
		return l, f, err
	}
	for _, a := range addrs {
		if a.Prefix.Addr() == own {
			l, err = u.nl.Link(a.IfIndex)
			return l, f, err
		}
	}
	return l, f, nil
}

// Watch calls changed when routes, addresses or devices change, until ctx ends.
func (u *Underlay) Watch(ctx context.Context, changed func()) error {
	return watch.Routes(ctx, u.nl, changed)
}
