// SPDX-License-Identifier: Apache-2.0

// Package uplinks finds the host's uplinks and addresses, and writes the tables that describe
// them. What the host loses stays for a while, because it often comes back.
package uplinks

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
	"github.com/fairlead-net/fairlead/loader"
	"github.com/fairlead-net/fairlead/maps"
)

// linger is how long flows outlive their host address, and programs a device that stopped being
// an uplink. A device that goes down, is recreated or gets its addresses again is back by then,
// so that the flows never reach the host's stack, which would reset them. The time does not count
// while the device is down.
const linger = 10 * time.Second

// Table is a table that is always written as a whole.
type Table[E any] interface {
	Sync([]E) (written, deleted int, err error)
}

// Tables are the tables that describe the host.
type Tables struct {
	Uplinks   Table[maps.Uplink]
	HostAddrs Table[netip.Addr]
	HostNets  Table[maps.Subnet]
}

// Uplinks are the uplinks and the addresses of the host. The caller serializes all access, except
// to IsNew.
type Uplinks struct {
	// Linger is how long what was lost is kept.
	Linger time.Duration

	nl     *rtnl.Handle
	log    *slog.Logger
	tables Tables
	pinned []string // names

	found    []uplink.Uplink
	tunnel   uint32 // index of the device that encrypts, 0 if there is none
	recent   recent
	addrs    map[netip.Addr]uint32 // of the host's own devices, with the device, as last read
	lost     lostAddrs
	overlaps map[overlap]bool // that were logged

	wroteAddrs []netip.Addr  // what fl_hostaddr holds
	wroteNets  []maps.Subnet // what fl_hostnet holds
}

// New returns Uplinks. Names pins the uplinks; if it is empty, they are found from addresses and
// routes.
func New(nl *rtnl.Handle, log *slog.Logger, tables Tables, names []string) *Uplinks {
	return &Uplinks{Linger: linger, nl: nl, log: log, tables: tables, pinned: names}
}

// Networks are the networks that the tables depend on.
type Networks struct {
	All       []*model.Network
	HostPorts []*model.Network // those with a host port
	OnLink    []*model.Network // those whose members are on the link of an uplink
	Announced []netip.Addr     // addresses that this host may have at any time
}

// Check finds the uplinks and the host's addresses and updates their tables. Uplinks may change
// at any time: only an entry that changed although they did not counts as restored. lost are
// addresses of the host that will not come back.
func (u *Uplinks) Check(host *device.State, nets Networks) (restored int, lost []netip.Addr, err error) {
	routed, err := u.routedDevices(host)
	if err != nil {
		return 0, nil, err
	}
	through, err := u.nl.DefaultDevices()
	if err != nil {
		return 0, nil, err
	}
	lost = u.noteAddrs(host, nets.Announced)
	found := uplink.Find(host.Links, append(u.lost.addrs(), host.Addrs...), uplink.Rules{
		Pinned: u.pinned, Kept: u.recent.names(), Routed: routed, Default: through, Parents: parents(nets.OnLink),
	})
	slices.SortFunc(found, func(a, b uplink.Uplink) int { return int(a.IfIndex) - int(b.IfIndex) })
	same := slices.Equal(found, u.found)
	if !same {
		u.log.Info("found uplinks", "devices", describe(found))
	}
	written, deleted, err := u.tables.Uplinks.Sync(entries.OfUplinks(found))
	if err != nil {
		return 0, lost, err
	}
	if same {
		restored += written + deleted
	}
	u.found, u.tunnel = found, 0
	for _, l := range host.Links {
		if l.Alias == rtnl.WireGuardAlias {
			u.tunnel = l.Index
		}
	}
	u.recent.note(found, host.Links, u.Linger)
	u.warnOverlaps(host, nets.All)
	inAddrs, err := u.WriteAddrs(nets.HostPorts, nets.Announced)
	inNets, netsErr := u.writeNets(host)
	return restored + inAddrs + inNets, lost, errors.Join(err, netsErr)
}

// parents returns the indices of networks by their parents.
func parents(nets []*model.Network) map[string]uint32 {
	by := make(map[string]uint32)
	for _, n := range nets {
		by[n.Parent] = n.Index
	}
	return by
}

// WriteOnLink writes which uplinks have networks on their links. A parent that is not an uplink yet becomes one with
// the next Check.
func (u *Uplinks) WriteOnLink(nets []*model.Network) error {
	by := parents(nets)
	found := slices.Clone(u.found)
	for i := range found {
		found[i].LAN = by[found[i].Name]
	}
	if slices.Equal(found, u.found) {
		return nil
	}
	u.found = found
	_, _, err := u.tables.Uplinks.Sync(entries.OfUplinks(found))
	return err
}

// WriteAddrs writes the table of the host's addresses: its own, those that it may announce, which every host
// accepts that receives them, and those of the host ports.
func (u *Uplinks) WriteAddrs(hostPorts []*model.Network, announced []netip.Addr) (restored int, err error) {
	addrs := entries.HostAddrs(u.addrs, hostPorts, announced)
	written, deleted, err := u.tables.HostAddrs.Sync(addrs)
	if slices.Equal(addrs, u.wroteAddrs) {
		restored = written + deleted
	}
	u.wroteAddrs = addrs
	return restored, err
}

// writeNets writes the table of the prefixes all of whose addresses are the host's own. Like
// uplinks, they may change at any time.
func (u *Uplinks) writeNets(host *device.State) (restored int, err error) {
	nets := entries.OfHostNets(host.Local)
	written, deleted, err := u.tables.HostNets.Sync(nets)
	if slices.Equal(nets, u.wroteNets) {
		restored = written + deleted
	}
	u.wroteNets = nets
	return restored, err
}

// Places returns where programs should be attached at uplinks and at the device that encrypts, in an order in
// which no packet of a flow reaches the host's stack.
func (u *Uplinks) Places() (list []device.Place) {
	if u.tunnel != 0 {
		list = append(list, device.Place{IfIndex: int(u.tunnel), Hook: loader.FromTunnel})
	}
	for _, up := range u.found {
		if !up.ReceivesBelow {
			list = append(list, device.Place{IfIndex: int(up.IfIndex), Hook: loader.FromUplink})
		}
	}
	for _, up := range u.found {
		list = append(list, device.Place{IfIndex: int(up.IfIndex), Hook: loader.ToUplink})
	}
	return list
}

// IsNew reports whether a device has the name of an uplink, or a pinned name, and is not known
// yet. It may be called at any time.
func (u *Uplinks) IsNew(l rtnl.Link) bool { return u.recent.isNew(l, u.pinned) }

// describe returns names and addresses of uplinks, for the log.
func describe(ups []uplink.Uplink) []string {
	names := []string{}
	for _, u := range ups {
		addrs := strings.TrimSpace(model.AddrText(u.IPv4) + " " + model.AddrText(u.IPv6))
		names = append(names, fmt.Sprintf("%s(%s)", u.Name, addrs))
	}
	return names
}

// routedDevices returns the candidate devices that have routes. Routing tables can be huge, so
// they are read only if nothing else shows whether a device is an uplink.
func (u *Uplinks) routedDevices(host *device.State) (map[uint32]bool, error) {
	candidates := make(map[uint32]bool)
	for _, l := range host.Links {
		if len(u.pinned) == 0 && uplink.MayBe(l, host.Addrs) {
			candidates[l.Index] = true
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	routed := make(map[uint32]bool)
	err := u.nl.Routes(func(r rtnl.Route) bool {
		for _, d := range r.Devices {
			// Every device has routes to the addresses of its own link.
			if candidates[d] && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast() {
				routed[d] = true
			}
		}
		return len(routed) < len(candidates)
	})
	return routed, err
}

// noteAddrs records the addresses of the host's own devices, and returns those that will not come
// back. Those that are announced keep their flows wherever they are.
func (u *Uplinks) noteAddrs(host *device.State, announced []netip.Addr) (expired []netip.Addr) {
	ours := make(map[uint32]bool)
	for _, l := range host.Links {
		ours[l.Index] = l.Ours()
	}
	now := make(map[netip.Addr]uint32)
	for _, a := range host.Addrs {
		if ip := a.Prefix.Addr(); !ip.IsLoopback() && !ours[a.IfIndex] {
			now[ip] = a.IfIndex
		}
	}
	for a, device := range u.addrs {
		if _, ok := now[a]; !ok && !slices.Contains(announced, a) {
			u.lost.add(a, device)
		}
	}
	u.addrs = now
	return u.lost.expired(now, host.Links, u.Linger)
}
