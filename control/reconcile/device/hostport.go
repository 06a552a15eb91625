// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// hostPort is a network's host port: a pair of devices on the host. The peer has the gateway
// addresses; the host end is the datapath's.
type hostPort struct {
	nl     *rtnl.Handle
	log    *slog.Logger
	warned atomic.Bool // about IPv6 forwarding
}

func (k *hostPort) Names(s Spec) []string {
	return []string{
		rtnl.GatewayAlias(s.ID), rtnl.GatewayDevice(s.ID), rtnl.HostPortAlias(s.ID), rtnl.HostPortDevice(s.ID),
	}
}

func (k *hostPort) Check(h *Host, s Spec, have Ends) (Found, bool) {
	f, ok, err := k.find(h, s.ID, have)
	f.Finished = f.Peer.Alias == rtnl.GatewayAlias(s.ID) && f.Host.Alias == rtnl.HostPortAlias(s.ID)
	return f, ok && err == nil && f.Finished
}

// find finds both ends, and reports whether they are a pair.
func (k *hostPort) find(h *Host, id string, have Ends) (f Found, ok bool, err error) {
	var okGW, okDP bool
	if f.Peer, okGW, err = h.find(rtnl.GatewayAlias(id), rtnl.GatewayDevice(id), have.Peer); err != nil {
		return f, false, err
	}
	if f.Host, okDP, err = h.find(rtnl.HostPortAlias(id), rtnl.HostPortDevice(id), have.Host); err != nil {
		return f, false, err
	}
	return f, okGW && okDP && f.Peer.PeerIndex == f.Host.Index && f.Host.PeerIndex == f.Peer.Index, nil
}

func (k *hostPort) Adopt(h *Host, s Spec, have Ends) (Found, bool, error) {
	f, ok, err := k.find(h, s.ID, have)
	if err == nil && !ok {
		err = h.deleteLinks(f.Peer, f.Host)
	}
	return f, ok, err
}

func (k *hostPort) Create(s Spec) (f Found, err error) {
	f.Peer, err = k.nl.CreateVeth(rtnl.Veth{
		Name: rtnl.GatewayDevice(s.ID), MAC: s.Network.GatewayMAC,
		PeerName: rtnl.HostPortDevice(s.ID), MTU: s.Network.DeviceMTU(),
	})
	if err != nil {
		return f, err
	}
	f.Created = true
	f.Host, err = k.nl.Link(f.Peer.PeerIndex)
	return f, err
}

func (k *hostPort) Configure(h *Host, s Spec, f Found) (configure.Changes, error) {
	addrs := h.Addrs
	if !h.loaded && !f.Created {
		var err error
		if addrs, err = k.nl.Addrs(); err != nil {
			return configure.Changes{}, err
		}
	}
	k.warnForwarding(s.Network, f.Peer)
	return configure.HostPort(k.nl, f.Peer, f.Host, addrs, configure.HostPortSpec{
		NetworkID: s.ID, MAC: s.Network.GatewayMAC, MTU: s.Network.DeviceMTU(),
		Addrs: s.Network.GatewayPrefixes(), Own: s.Network.NodePrefixes(), IPv6: s.Network.OnHostIPv6(),
	})
}

// Finish reads the devices, which makes the kernel update their carrier state, so that the first
// packet is not lost.
func (k *hostPort) Finish(_ string, have Ends) error {
	_, err1 := k.nl.Link(have.Peer)
	_, err2 := k.nl.Link(have.Host)
	return errors.Join(err1, err2)
}

func (k *hostPort) Remove(h *Host, s Spec, have Ends) error {
	return h.remove(rtnl.HostPortAlias(s.ID), rtnl.HostPortDevice(s.ID), have.Host)
}

func (k *hostPort) Places(have Ends) []Place { return atHostEnd(have) }

// warnForwarding warns once on older kernels, which lack force_forwarding: without this
// per-device sysctl the host's stack forwards IPv6 only if forwarding is enabled on all devices,
// and that decision is the operator's.
func (k *hostPort) warnForwarding(n *model.Network, gw rtnl.Link) {
	if !n.OnHostIPv6() || gw.Conf.ForceForwarding6 != -1 || k.warned.Load() {
		return
	}
	k.warned.Store(true)
	if v, err := k.nl.ReadSysctl("ipv6/conf/all/forwarding"); err == nil && v == "0" {
		k.log.Warn("this kernel does not forward IPv6 packets that the datapath passes to the host's stack (no route, unusual devices)",
			"remedy", "set net.ipv6.conf.all.forwarding=1, and accept_ra=2 on uplinks that use router advertisements")
	}
}
