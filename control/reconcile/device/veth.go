// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/offload"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
)

// veth is an endpoint's pair of devices: the host end has the program, the peer is in the
// sandbox. The alias of the host end is set last.
type veth struct{ nl *rtnl.Handle }

func (k *veth) Names(s Spec) []string {
	names := []string{rtnl.EndpointAlias(s.ID), rtnl.EndpointDevice(s.ID)}
	if s.EngineManaged {
		names = append(names, s.Endpoint.IfName) // until the engine moves it, and after the engine moved it back
	}
	return names
}

func (k *veth) Check(h *Host, s Spec, have Ends) (Found, bool) {
	alias := rtnl.EndpointAlias(s.ID)
	l, ok, err := h.find(alias, rtnl.EndpointDevice(s.ID), have.Host)
	f := foundVeth(alias, l)
	return f, ok && err == nil && f.Finished
}

// foundVeth returns a pair by its host end, which has the alias if it is finished.
func foundVeth(alias string, l rtnl.Link) Found {
	return Found{Host: l, Peer: rtnl.Link{Index: l.PeerIndex}, Finished: l.Alias == alias}
}

// Adopt adopts no unfinished pair from before this daemon's start, since what it lacks is unknown.
func (k *veth) Adopt(h *Host, s Spec, have Ends) (Found, bool, error) {
	alias := rtnl.EndpointAlias(s.ID)
	l, ok, err := h.find(alias, rtnl.EndpointDevice(s.ID), have.Host)
	if err != nil {
		return Found{}, false, err
	}
	if f := foundVeth(alias, l); ok && (f.Finished || l.Index == have.Host) {
		return f, true, nil
	}
	return Found{}, false, h.deleteLinks(l)
}

func (k *veth) Create(s Spec) (Found, error) {
	l, err := k.nl.CreateVeth(rtnl.Veth{
		Name: rtnl.EndpointDevice(s.ID), PeerName: s.Endpoint.IfName, PeerMAC: s.Endpoint.MAC,
		PeerNS: s.NetNS, MTU: s.mtu(),
	})
	f := foundVeth(rtnl.EndpointAlias(s.ID), l)
	f.Created = err == nil
	if err == nil && s.Network.Has().Shared {
		err = k.segmentTunnels(s)
	}
	return f, err
}

// segmentTunnels has the kernel segment what the sandbox itself encapsulates before it leaves: an aggregate
// cannot be in two tunnels.
func (k *veth) segmentTunnels(s Spec) error {
	in := k.nl.Do
	if s.NetNS != nil {
		in = s.NetNS.Do
	}
	return in(func() error { return offload.Off(s.Endpoint.IfName, offload.Tunnels()...) })
}

// Configure installs the ingress limit before it brings the host end up.
func (k *veth) Configure(h *Host, s Spec, f Found) (configure.Changes, error) {
	limit := s.Endpoint.Bandwidth.Ingress
	shaped := false
	if !limit.IsZero() || f.Host.Qdisc == tc.Kind {
		var err error
		if f.Finished && h.shapers == nil {
			h.shapers, err = tc.ListShapers(k.nl.TC())
		}
		if err == nil {
			shaped, err = tc.Shape(k.nl.TC(), f.Host.Index, limit, h.shapers)
		}
		if err != nil {
			return configure.Changes{}, err
		}
	}
	ch, err := configure.HostEnd(k.nl, f.Host, s.mtu())
	if shaped {
		ch.Devices++
	}
	return ch, err
}

// Finish sets the alias. Reading the device makes the kernel update its carrier state, so that
// the first packet is not lost.
func (k *veth) Finish(id string, have Ends) error {
	if err := k.nl.SetAlias(have.Host, rtnl.EndpointAlias(id)); err != nil {
		return err
	}
	_, err := k.nl.Link(have.Host)
	return err
}

func (k *veth) Remove(h *Host, s Spec, have Ends) error {
	return h.remove(rtnl.EndpointAlias(s.ID), rtnl.EndpointDevice(s.ID), have.Host)
}

func (k *veth) Places(have Ends) []Place { return atHostEnd(have) }

func (k *veth) Inside(s Spec, have Ends, fresh bool) configure.Device {
	d := insideOf(s, have, fresh)
	d.HostIndex, d.MTU, d.Limit = have.Host, s.mtu(), s.Endpoint.Bandwidth.Egress
	return d
}

// insideOf returns what is wanted of an end in a sandbox, whatever its kind.
func insideOf(s Spec, have Ends, fresh bool) configure.Device {
	ep := s.Endpoint
	d := configure.Device{PeerIndex: have.Peer, Alias: rtnl.SandboxAlias(s.ID), Fresh: fresh, MAC: ep.MAC, Settings: ep.Sysctls}
	if s.Network.IPAM != "" && s.Network.EnableIPv6 {
		// By itself IPv6 is off on a device without an IPv6 address. The user's choice comes before that.
		on := model.Sysctl{Family: "ipv6", Table: "conf", Key: "disable_ipv6", Value: "0"}
		if !slices.ContainsFunc(d.Settings, on.Sets) {
			d.Settings = append(slices.Clone(d.Settings), on)
		}
	}
	for _, a := range []netip.Prefix{ep.IPv4, ep.IPv6} {
		if !a.IsValid() {
			continue
		}
		d.Addrs = append(d.Addrs, a)
		f := model.FamilyOf(a.Addr())
		if s.Network.Routes() && ep.DefaultRoute(f) && s.Network.HasDefaultRoute(ep, f) {
			d.Gateways = append(d.Gateways, unspecified(f))
			continue
		}
		if sub, _ := s.Network.SubnetWith(ep.Addr(f)); ep.DefaultRoute(f) && sub.DefaultGateway().IsValid() {
			d.Gateways = append(d.Gateways, sub.DefaultGateway())
		}
	}
	return d
}

func unspecified(f model.Family) netip.Addr {
	if f == model.V4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// InnerEnd reads the kernel, since callers ask about changes that others made a moment ago.
func (k *veth) InnerEnd(ep *model.Endpoint, have Ends) (model.InnerEnd, error) {
	host, err := k.nl.Link(have.Host)
	if errors.Is(err, rtnl.ErrNoDevice) {
		return model.InnerDeleted, nil
	}
	if err != nil {
		return 0, err
	}
	if host.Running {
		return model.InnerTaken, nil // only the engine brings the inner end up
	}
	inner, err := k.nl.LinkByName(ep.IfName)
	switch {
	case errors.Is(err, rtnl.ErrNoDevice):
		return model.InnerTaken, nil
	case err != nil:
		return 0, err
	case inner.PeerIndex == host.Index:
		return model.InnerOnHost, nil
	}
	return model.InnerTaken, nil
}
