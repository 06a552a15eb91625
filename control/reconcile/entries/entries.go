// SPDX-License-Identifier: Apache-2.0

// Package entries computes the entries of the tables that Fairlead owns from the model and from
// the indices of devices. It is pure: it neither reads nor writes the kernel, and keeps no state.
package entries

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/maps"
)

// Set is the table entries of some objects.
type Set struct {
	Endpoints  []maps.Endpoint
	FDB        []maps.FDBEntry
	Neighbours []maps.Neighbour
	Publishes  []maps.Publish
	Sources    []maps.Source
	Pools      []maps.Pool
	Resolvers  []maps.Resolver
	Subnets    []maps.Subnet
	Egresses   []maps.Egress
	Tunnels    []maps.Tunnel
	VNIs       []maps.VNI
}

// Add appends the entries of o.
func (s *Set) Add(o Set) {
	s.Endpoints = append(s.Endpoints, o.Endpoints...)
	s.FDB = append(s.FDB, o.FDB...)
	s.Neighbours = append(s.Neighbours, o.Neighbours...)
	s.Publishes = append(s.Publishes, o.Publishes...)
	s.Sources = append(s.Sources, o.Sources...)
	s.Pools = append(s.Pools, o.Pools...)
	s.Resolvers = append(s.Resolvers, o.Resolvers...)
	s.Subnets = append(s.Subnets, o.Subnets...)
	s.Egresses = append(s.Egresses, o.Egresses...)
	s.Tunnels = append(s.Tunnels, o.Tunnels...)
	s.VNIs = append(s.VNIs, o.VNIs...)
}

// Without returns the entries that have no successor in o, that is, none with the same key.
func (s *Set) Without(o *Set) Set {
	return Set{
		Endpoints:  without(s.Endpoints, o.Endpoints, keyOfEndpoint),
		FDB:        without(s.FDB, o.FDB, keyOfFDB),
		Neighbours: without(s.Neighbours, o.Neighbours, keyOfNeighbour),
		Publishes:  without(s.Publishes, o.Publishes, keyOfPublish),
		Sources:    without(s.Sources, o.Sources, keyOfSource),
		Pools:      without(s.Pools, o.Pools, keyOfPool),
		Resolvers:  without(s.Resolvers, o.Resolvers, keyOfResolver),
		Subnets:    without(s.Subnets, o.Subnets, keyOfSubnet),
		Egresses:   without(s.Egresses, o.Egresses, keyOfEgress),
		Tunnels:    without(s.Tunnels, o.Tunnels, keyOfTunnel),
		VNIs:       without(s.VNIs, o.VNIs, keyOfVNI),
	}
}

// Keys of the entries in the tables.
type (
	fdbKey struct {
		net uint32
		mac maps.MAC
	}
	neighbourKey struct {
		net    uint32
		addr   netip.Addr
		router bool
	}
	publishKey struct {
		host  netip.Addr
		port  uint16
		proto uint8
	}
	poolKey struct {
		service uint32
		v6      bool
	}
)

func keyOfEndpoint(e maps.Endpoint) uint32         { return e.IfIndex }
func keyOfFDB(e maps.FDBEntry) fdbKey              { return fdbKey{e.Net, e.MAC} }
func keyOfNeighbour(e maps.Neighbour) neighbourKey { return neighbourKey{e.Net, e.Addr, e.Router} }
func keyOfPublish(e maps.Publish) publishKey       { return publishKey{e.HostIP, e.Port, e.Proto} }
func keyOfSource(e maps.Source) maps.Source        { return e }
func keyOfPool(e maps.Pool) poolKey                { return poolKey{e.Service, e.IPv6} }
func keyOfResolver(e maps.Resolver) uint64         { return e.Cookie }
func keyOfSubnet(e maps.Subnet) netip.Prefix       { return e.Prefix }
func keyOfEgress(e maps.Egress) uint32             { return e.Net }
func keyOfTunnel(e maps.Tunnel) uint32             { return e.Net }
func keyOfVNI(e maps.VNI) uint32                   { return e.VNI }

// without returns the entries of a whose keys are not in b.
func without[E any, K comparable](a, b []E, key func(E) K) []E {
	if len(a) == 0 || len(b) == 0 {
		return a
	}
	keep := make(map[K]bool, len(b))
	for _, e := range b {
		keep[key(e)] = true
	}
	var out []E
	for _, e := range a {
		if !keep[key(e)] {
			out = append(out, e)
		}
	}
	return out
}
