// SPDX-License-Identifier: Apache-2.0

package entries

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// Backend is an endpoint of a service, and where it is.
type Backend struct {
	ID     string // of the endpoint
	At     interface{ Addr(model.Family) netip.Addr }
	Device uint32 // its host end, or ViaNode
}

// ViaNode stands in place of the device of a member of a network that is on another node.
func ViaNode(n *model.Network) uint32 { return maps.ViaNode(n.Index) }

// OfService returns the entries of a service with these backends, which exclude drained ones.
func OfService(svc *model.Service, n *model.Network, backends []Backend) Set {
	var s Set
	if svc.Addr(model.V4).IsValid() || svc.Addr(model.V6).IsValid() {
		s.FDB = append(s.FDB, maps.FDBEntry{Net: n.Index, MAC: svc.MAC, Flags: maps.Service})
	}
	for _, f := range model.Families {
		vip := svc.Addr(f)
		if !vip.IsValid() {
			continue
		}
		s.Neighbours = append(s.Neighbours, maps.Neighbour{Net: n.Index, Addr: vip, MAC: svc.MAC, Flags: maps.Service})
		s.Publishes = append(s.Publishes, maps.Publish{HostIP: vip, ID: svc.Number, Pool: true, IPv6: f == model.V6})
		s.Pools = append(s.Pools, poolOf(svc, n, f, backends))
	}
	if n.Internal {
		return s
	}
	for _, b := range svc.Ports {
		s.Publishes = AppendRuns(s.Publishes, portsOf(svc, n, b))
	}
	return s
}

func poolOf(svc *model.Service, n *model.Network, f model.Family, backends []Backend) maps.Pool {
	p := maps.Pool{Service: svc.Number, IPv6: f == model.V6, Affinity: uint32(svc.Affinity / time.Second)}
	for _, b := range backends {
		if a := b.At.Addr(f); a.IsValid() {
			p.Members = append(p.Members, maps.PoolMember{ID: memberID(b.ID), Addr: a, IfIndex: b.Device, Net: n.Index})
		}
	}
	return p
}

// memberID returns the beginning of an endpoint's ID, as a number.
func memberID(id string) uint64 {
	v, err := strconv.ParseUint(id[:min(16, len(id))], 16, 64)
	if err != nil {
		panic("an ID begins with 16 hexadecimal digits: " + id) // resource.NewID
	}
	return v
}

// portsOf returns the entries of a published port of a service, for clients of each family, as
// OfPublish does. The backends of a family that the network lacks are those of the other.
func portsOf(svc *model.Service, n *model.Network, b model.PortBinding) []Run {
	at := &model.Endpoint{}
	for f, p := range map[model.Family]*netip.Prefix{model.V4: &at.IPv4, model.V6: &at.IPv6} {
		if a := svc.Addr(f); a.IsValid() {
			*p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	runs := OfPublish(&model.Publish{ID: svc.Number, PortBinding: b}, at, n, 0)
	for i := range runs {
		p := &runs[i].First
		p.Pool, p.IPv6 = true, p.Backend.Is6()
		p.Backend, p.Net = netip.Addr{}, 0
	}
	return runs
}
