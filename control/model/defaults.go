// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Defaults are what the daemon's flags say about networks and sandboxes whose own flags do not.
type Defaults struct {
	// Bridge is the default network, without a name. Its subnets are those that the flags fix.
	Bridge NetworkSpec
	// Options are those of the networks that users create, by driver.
	Options map[string]map[string]string
	// Lookup has the servers, domains to search and options of resolv.conf for sandboxes that have none of their own.
	Lookup Lookup
	// HostGateway is what host-gateway stands for in lines of /etc/hosts: at most one address of each family. Without it,
	// the gateway of each sandbox.
	HostGateway []netip.Addr
}
