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
)

// Driver says what networks of a driver consist of.
type Driver struct {
	Predefined bool       // there is one network, created at the first start
	Pools      bool       // the networks have subnets, from which endpoints get addresses
	Entries    bool       // networks and endpoints have entries in the datapath's tables
	OnHost     DeviceKind // the network's own device
	Endpoint   DeviceKind // the device of an endpoint; NoDevice: sandboxes have no endpoints
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
