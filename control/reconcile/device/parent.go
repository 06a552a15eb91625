// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
	"github.com/fairlead-net/fairlead/control/rtnl/station"
)

// parent is the device on top of which a network's endpoints have theirs: a device of the host, which is left as it is; a
// VLAN of one, which Fairlead creates if it is missing and removes with the last network that has it; or, without a name,
// a pair of the network's own, which leads nowhere. The host has no address on it. For members that are on its link it
// accepts their MACs.
type parent struct {
	nl       *rtnl.Handle
	stations *station.Filters
}

// Aliases and names of a network's own parent: the device below those of the endpoints, and its peer, without which
// it would have no carrier.
func ownAlias(id string) string  { return rtnl.AliasPrefix + "parent:" + id }
func ownDevice(id string) string { return "fli" + id[:min(len(id), 11)] }
func endAlias(id string) string  { return rtnl.AliasPrefix + "parentpeer:" + id }
func endDevice(id string) string { return "flj" + id[:min(len(id), 11)] }

// vlanDevice returns the name of a VLAN device that is not finished.
func vlanDevice(id string) string { return "flv" + id[:min(len(id), 11)] }

// Alias and name of the device by which the host reaches the members.
func accessAlias(id string) string  { return rtnl.AliasPrefix + "access:" + id }
func accessDevice(id string) string { return "flh" + id[:min(len(id), 11)] }

func (k *parent) Names(s Spec) []string {
	names := []string{ownAlias(s.ID), ownDevice(s.ID), endAlias(s.ID), endDevice(s.ID)}
	if s.Network.Parent != "" {
		names = []string{stacked.VLANAlias(s.Network.Parent), vlanDevice(s.ID)}
	}
	if s.Network.HostAccess {
		names = append(names, accessAlias(s.ID), accessDevice(s.ID))
	}
	return names
}

func (k *parent) Check(h *Host, s Spec, _ Ends) (Found, bool) {
	l, ok, err := k.find(h, s)
	return Found{Peer: l, Finished: true, OnLink: s.Network.OnLink()}, ok && err == nil
}

// find finds the device by its name, or the network's own one by its alias.
func (k *parent) find(h *Host, s Spec) (rtnl.Link, bool, error) {
	n := s.Network
	if n.Parent == "" {
		l, ok, err := h.find(ownAlias(s.ID), ownDevice(s.ID), 0)
		return l, ok && l.Alias == ownAlias(s.ID), err
	}
	if h.loaded {
		l, ok := h.byName[n.Parent]
		return l, ok, nil
	}
	l, err := k.nl.LinkByName(n.Parent)
	if errors.Is(err, rtnl.ErrNoDevice) {
		return rtnl.Link{}, false, nil
	}
	return l, err == nil, err
}

// Adopt deletes an unfinished device. A VLAN that has its alias but not its name is not finished. It refuses a network
// for whose endpoints this kernel has no devices.
func (k *parent) Adopt(h *Host, s Spec, have Ends) (Found, bool, error) {
	onLink := s.Network.OnLink()
	if !onLink {
		if err := stacked.Probe(k.nl, s.Network.Driver); err != nil {
			return Found{}, false, err
		}
	}
	l, ok, err := k.find(h, s)
	if onLink && ok && !l.Ethernet() {
		return Found{}, false, model.Refuse(model.ErrInvalid, "the parent interface %s of network %s is not an Ethernet device, so its members cannot be on its link (choose another with: -o parent=)", l.Name, s.Network.Name)
	}
	if ok || err != nil || l.Index != 0 && l.Index == have.Peer {
		return Found{Peer: l, Finished: ok, OnLink: onLink}, err == nil, err
	}
	if s.Network.Parent == "" {
		return Found{}, false, h.deleteLinks(l)
	}
	l, err = k.nl.LinkByName(vlanDevice(s.ID))
	if errors.Is(err, rtnl.ErrNoDevice) {
		return Found{}, false, nil
	}
	if err == nil {
		err = h.deleteLinks(l)
	}
	return Found{}, false, err
}

func (k *parent) Create(s Spec) (f Found, err error) {
	if s.Network.Parent == "" {
		f.Peer, err = k.nl.CreateVeth(rtnl.Veth{Name: ownDevice(s.ID), PeerName: endDevice(s.ID), MTU: s.Network.DeviceMTU()})
		f.Created = err == nil
		return f, err
	}
	name, vlan, ok := s.Network.VLAN()
	if !ok {
		return f, noParent(s.Network)
	}
	below, err := k.nl.LinkByName(name)
	if errors.Is(err, rtnl.ErrNoDevice) {
		return f, model.Refuse(model.ErrInvalid, "the parent interface %s of network %s cannot be created: this host has no device %s (create it, or choose another with: -o parent=)", s.Network.Parent, s.Network.Name, name)
	}
	if err != nil {
		return f, err
	}
	f.Peer, err = stacked.CreateVLAN(k.nl, vlanDevice(s.ID), s.Network.Parent, below.Index, vlan)
	f.Created = err == nil
	return f, err
}

func noParent(n *model.Network) error {
	return model.Refuse(model.ErrInvalid, "the parent interface %s of network %s does not exist on this host (create it, or choose another with: -o parent=)", n.Parent, n.Name)
}

// Configure brings up what Fairlead created. Whether another device is up is up to its owner.
func (k *parent) Configure(h *Host, s Spec, f Found) (ch configure.Changes, err error) {
	if s.Network.OnLink() {
		if ch.Devices, err = k.stations.Ensure(f.Peer.Index, s.MACs); err != nil {
			err = fmt.Errorf("parent %s: %w", s.Network.Parent, err)
		}
		return ch, err
	}
	if ch, err = k.bringUp(s, f); err != nil || !s.Network.HostAccess {
		return ch, err
	}
	access, err := k.access(h, s, f.Peer)
	ch.Add(access)
	return ch, err
}

// access gives the host its device on the parent, with its addresses and a route to each member.
func (k *parent) access(h *Host, s Spec, below rtnl.Link) (ch configure.Changes, err error) {
	name := accessDevice(s.ID)
	l, err := k.nl.LinkByName(name)
	if errors.Is(err, rtnl.ErrNoDevice) {
		ch.Devices++
		d := stacked.Device{Kind: model.DriverMacvlan, Name: name, Parent: below.Index, MAC: s.Network.NodeMAC(), MTU: s.Network.MTU, Mode: model.ModeBridge}
		if err := stacked.Create(k.nl, nil, d); err != nil {
			return ch, err
		}
		l, err = k.nl.LinkByName(name)
	}
	if err != nil {
		return ch, err
	}
	addrs, err := k.nl.Addrs()
	if err != nil {
		return ch, err
	}
	more, err := configure.Access(k.nl, l, addrs, configure.AccessSpec{Alias: accessAlias(s.ID), IPv4: s.Network.NodeIPv4, IPv6: s.Network.NodeIPv6, Members: s.Members})
	ch.Add(more)
	return ch, err
}

func (k *parent) bringUp(s Spec, f Found) (ch configure.Changes, err error) {
	switch {
	case s.Network.Parent == "":
		end, err := k.nl.Link(f.Peer.PeerIndex)
		if err != nil {
			return ch, err
		}
		if ch, err = configure.Bare(k.nl, end, endAlias(s.ID)); err != nil {
			return ch, err
		}
		own, err := configure.Bare(k.nl, f.Peer, ownAlias(s.ID))
		ch.Add(own)
		return ch, err
	case f.Peer.Alias == stacked.VLANAlias(s.Network.Parent):
		return configure.Bare(k.nl, f.Peer, f.Peer.Alias)
	}
	return ch, nil
}

// Finish does nothing.
func (k *parent) Finish(string, Ends) error { return nil }

func (k *parent) Remove(h *Host, s Spec, have Ends) error {
	if s.Network.OnLink() && have.Peer != 0 {
		if _, err := k.stations.Ensure(have.Peer, nil); err != nil {
			return err
		}
	}
	if s.Network.HostAccess {
		if err := h.remove(accessAlias(s.ID), accessDevice(s.ID), 0); err != nil {
			return err
		}
	}
	if s.Network.Parent == "" {
		return h.remove(ownAlias(s.ID), ownDevice(s.ID), 0)
	}
	l, ok, err := k.find(h, s)
	if err != nil || !ok || s.Shared || l.Alias != stacked.VLANAlias(s.Network.Parent) {
		return err
	}
	return k.nl.DeleteLink(l.Index)
}

func (k *parent) Places(Ends) []Place { return nil }
