// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/entries"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// checkUplinks finds the uplinks and the host's addresses and updates their tables. Uplinks may
// change at any time: only an entry that changed although they did not is a repair.
func (p *pass) checkUplinks() error {
	routed, err := p.routedDevices()
	if err != nil {
		return err
	}
	through, err := p.r.nl.DefaultDevices()
	if err != nil {
		return err
	}
	p.noteHostAddrs()
	ups := rtnl.FindUplinks(p.host.Links, append(p.r.lost.addrs(), p.host.Addrs...), rtnl.UplinkRules{
		Pinned: p.r.cfg.Uplinks, Kept: p.r.kept.names(), Routed: routed, Default: through,
	})
	slices.SortFunc(ups, func(a, b rtnl.Uplink) int { return int(a.IfIndex) - int(b.IfIndex) })
	same := slices.Equal(ups, p.r.uplinks)
	if !same {
		p.r.log.Info("found uplinks", "devices", describe(ups))
	}
	written, deleted, err := p.r.tables.Uplinks.Sync(entries.OfUplinks(ups))
	if err != nil {
		return err
	}
	if same {
		p.count(RepairEntry, written+deleted)
	}
	p.r.uplinks = ups
	p.r.kept.note(ups, p.host.Links, p.r.linger)
	p.warnOverlaps()
	err = errors.Join(p.writeHostAddrs(), p.writeHostNets())
	p.dropFlows()
	return err
}

// describe returns names and addresses of uplinks, for the log.
func describe(ups []rtnl.Uplink) []string {
	names := []string{}
	for _, u := range ups {
		names = append(names, fmt.Sprintf("%s(%s %s)", u.Name, u.IPv4, u.IPv6))
	}
	return names
}

// routedDevices returns the candidate devices that have routes. Routing tables can be huge, so
// they are read only if nothing else shows whether a device is an uplink.
func (p *pass) routedDevices() (map[uint32]bool, error) {
	candidates := make(map[uint32]bool)
	for _, l := range p.host.Links {
		if len(p.r.cfg.Uplinks) == 0 && rtnl.MayBeUplink(l, p.host.Addrs) {
			candidates[l.Index] = true
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	routed := make(map[uint32]bool)
	err := p.r.nl.Routes(func(r rtnl.Route) bool {
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

// noteHostAddrs records the addresses of the host's own devices. It schedules the removal of
// flows of addresses that will not come back.
func (p *pass) noteHostAddrs() {
	ours := make(map[uint32]bool)
	for _, l := range p.host.Links {
		ours[l.Index] = l.Ours()
	}
	now := make(map[netip.Addr]uint32)
	for _, a := range p.host.Addrs {
		if ip := a.Prefix.Addr(); !ip.IsLoopback() && !ours[a.IfIndex] {
			now[ip] = a.IfIndex
		}
	}
	for a, device := range p.r.hostAddrs {
		if _, ok := now[a]; !ok {
			p.r.lost.add(a, device)
		}
	}
	for _, a := range p.r.lost.expired(now, p.host.Links, p.r.linger) {
		p.flows.addr(a)
	}
	p.r.hostAddrs = now
}

// warnOverlaps warns once about each other device of the host that has an address in a network's
// subnet. A new network avoids the host's subnets, but a container engine that starts later
// restores its own.
func (p *pass) warnOverlaps() {
	others := make(map[uint32]string) // names of devices
	for _, l := range p.host.Links {
		if !l.Ours() && !l.Loopback {
			others[l.Index] = l.Name
		}
	}
	now := make(map[overlap]bool)
	for _, a := range p.host.Addrs {
		device, ok := others[a.IfIndex]
		if !ok {
			continue
		}
		for _, n := range p.r.networks {
			if n.want == nil {
				continue
			}
			for _, s := range n.want.Subnets {
				o := overlap{n.id, a.IfIndex}
				if !s.Prefix.Contains(a.Prefix.Addr()) || now[o] {
					continue
				}
				if now[o] = true; !p.r.overlaps[o] {
					p.r.log.Warn("host device overlaps a network's subnet; traffic to either may be misrouted",
						"network", n.want.Name, "subnet", s.Prefix, "device", device, "address", a.Prefix,
						"remedy", "recreate one of the two with another subnet")
				}
			}
		}
	}
	p.r.overlaps = now
}

// overlap is a network, by ID, and a device that is not Fairlead's.
type overlap struct {
	network string
	device  uint32
}

// writeHostAddrs writes the table of the host's addresses: its own, and those of the host ports.
func (p *pass) writeHostAddrs() error {
	var usable []*model.Network
	for _, n := range p.r.networks {
		if n.usable() {
			usable = append(usable, n.want)
		}
	}
	addrs := entries.HostAddrs(p.r.hostAddrs, usable)
	written, deleted, err := p.r.tables.HostAddrs.Sync(addrs)
	if slices.Equal(addrs, p.r.wroteAddrs) {
		p.count(RepairEntry, written+deleted)
	}
	p.r.wroteAddrs = addrs
	return err
}

// writeHostNets writes the table of the prefixes all of whose addresses are the host's own. Like
// uplinks, they may change at any time.
func (p *pass) writeHostNets() error {
	nets := entries.OfHostNets(p.host.Local)
	written, deleted, err := p.r.tables.HostNets.Sync(nets)
	if slices.Equal(nets, p.r.hostNets) {
		p.count(RepairEntry, written+deleted)
	}
	p.r.hostNets = nets
	return err
}

// checkCgroup makes sure that the socket programs are attached.
func (p *pass) checkCgroup() error {
	changed, err := p.r.dp.AttachCgroup()
	p.count(RepairProgram, changed)
	return err
}

// places returns where programs should be attached.
func (r *Reconciler) places() map[place]bool {
	all := make(map[place]bool)
	add := func(places []place) {
		for _, at := range places {
			all[at] = true
		}
	}
	for _, n := range r.networks {
		if n.usable() {
			add(r.kinds.HostPort.Places(n.ends))
		}
	}
	for _, e := range r.endpoints {
		if e.want != nil {
			add(e.kind.Places(e.ends))
		}
	}
	add(r.uplinkPlaces())
	return all
}
