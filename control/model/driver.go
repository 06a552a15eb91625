// SPDX-License-Identifier: Apache-2.0

package model

import (
	"maps"
	"slices"
)

// Drivers of a Network, under Docker's names.
const (
	DriverBridge  = "bridge"
	DriverHost    = "host"
	DriverNull    = "null"
	DriverOverlay = "overlay"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
	DriverLAN     = "lan"
)

// Modes of macvlan and ipvlan networks, under Docker's names. The first three are flags of ipvlan too.
const (
	ModeBridge   = "bridge"
	ModePrivate  = "private"
	ModeVEPA     = "vepa"
	ModePassthru = "passthru"
	ModeL2       = "l2"
	ModeL3       = "l3"
	ModeL3S      = "l3s"
)

// DeviceKind is a kind of network device that Fairlead creates.
type DeviceKind uint8

// Kinds of devices.
const (
	NoDevice DeviceKind = iota
	// DeviceVeth is a pair of an endpoint: the host end, where the datapath is attached, and the inner
	// end in the sandbox.
	DeviceVeth
	// DeviceHostPort is a pair of a network, with both ends on the host: one has the gateway addresses,
	// and at the other the datapath is attached.
	DeviceHostPort
	// DeviceParent is the device on the host on top of which those of a network's endpoints are: one that
	// exists, a VLAN of one, or a pair of the network's own. The host has no address there.
	DeviceParent
	// DeviceMacvlan and DeviceIPvlan are in the sandbox only. No program of Fairlead sees their packets.
	DeviceMacvlan
	DeviceIPvlan
)

// Driver says what networks of a driver consist of.
type Driver struct {
	Predefined bool // there is one network, created at the first start
	Pools      bool // the networks have subnets, from which endpoints get addresses
	// Entries: networks and endpoints have entries in the datapath's tables, so that it carries, checks
	// and counts their packets, publishes their ports, and the host has the gateways' addresses.
	Entries  bool
	OnHost   DeviceKind // the network's own device
	Endpoint DeviceKind // the device of an endpoint; NoDevice: sandboxes have no endpoints
	// Shared: the networks are those of a cluster, whose store allocates their addresses. On a node
	// without endpoints they are idle.
	Shared bool
}

// drivers holds a row per driver. Code that handles networks asks these for what it needs, so
// that a new driver is a row here and, if it has another kind of device, code for that.
var drivers = map[string]Driver{
	DriverBridge:  {Pools: true, Entries: true, OnHost: DeviceHostPort, Endpoint: DeviceVeth},
	DriverHost:    {Predefined: true},
	DriverNull:    {Predefined: true},
	DriverOverlay: {Pools: true, Entries: true, OnHost: DeviceHostPort, Endpoint: DeviceVeth, Shared: true},
	DriverMacvlan: {Pools: true, OnHost: DeviceParent, Endpoint: DeviceMacvlan},
	DriverIPvlan:  {Pools: true, OnHost: DeviceParent, Endpoint: DeviceIPvlan},
	DriverLAN:     {Pools: true, Entries: true, OnHost: DeviceParent, Endpoint: DeviceVeth},
}

// DriverNames returns the names of all drivers.
func DriverNames() []string { return slices.Collect(maps.Keys(drivers)) }

// DriverNamed returns the driver of that name, if there is one.
func DriverNamed(name string) (Driver, bool) {
	d, ok := drivers[name]
	return d, ok
}

// Has returns what the network consists of.
func (n *Network) Has() Driver { return drivers[n.Driver] }

// OnLink reports whether the datapath carries packets between members and the link of the parent, whose router is not the host.
func (n *Network) OnLink() bool { return n.Has().Entries && n.Has().OnHost == DeviceParent }
