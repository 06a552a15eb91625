// SPDX-License-Identifier: Apache-2.0

package rtnl

// DeviceGroup marks Fairlead's devices from their creation. The alias, which cannot be set in the
// same message, marks a finished device.
const DeviceGroup = 0x666c

// deviceKinds are the kernel's kinds of Fairlead's devices.
var deviceKinds = []string{"veth", "wireguard", "macvlan", "ipvlan", "vlan"}

// AliasPrefix is the prefix of the aliases of Fairlead's devices.
const AliasPrefix = "fairlead:"

// Aliases of Fairlead's devices: a role, followed by the ID of the object.
const (
	aliasEndpoint = AliasPrefix + "endpoint:" // an endpoint's host end
	aliasGateway  = AliasPrefix + "gateway:"  // a host port's end with the addresses
	aliasHostPort = AliasPrefix + "hostport:" // a host port's end with the program
	aliasSandbox  = AliasPrefix + "sandbox:"  // an endpoint's end in the sandbox
)

// WireGuardAlias is the alias of the host's device that encrypts, and WireGuardDevice its name.
const (
	WireGuardAlias  = AliasPrefix + "wireguard"
	WireGuardDevice = "flwg0"
)

// EndpointAlias returns the alias of an endpoint's finished host end.
func EndpointAlias(endpointID string) string { return aliasEndpoint + endpointID }

// GatewayAlias returns the alias of the host port's end that has the addresses.
func GatewayAlias(networkID string) string { return aliasGateway + networkID }

// HostPortAlias returns the alias of the host port's end that has the program.
func HostPortAlias(networkID string) string { return aliasHostPort + networkID }

// SandboxAlias returns the alias of an endpoint's end in the sandbox.
func SandboxAlias(endpointID string) string { return aliasSandbox + endpointID }

// EndpointDevice returns the name of an endpoint's host end.
func EndpointDevice(endpointID string) string { return "fl" + head(endpointID, 12) }

// GatewayDevice returns the name of the host port's end that has the addresses.
func GatewayDevice(networkID string) string { return "flg" + head(networkID, 11) }

// HostPortDevice returns the name of the host port's end that has the program.
func HostPortDevice(networkID string) string { return "flp" + head(networkID, 11) }

func head(s string, n int) string { return s[:min(n, len(s))] }
