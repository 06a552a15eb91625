// SPDX-License-Identifier: Apache-2.0

// Package roster holds the contestants.
package roster

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// All returns the contestants, the yardstick first. self is the program that generates the
// loads, and is Fairlead.
func All(self string) []contestant.Contestant {
	return []contestant.Contestant{
		limit{}, fairlead{self}, direct{fairlead{self}}, few{fairlead{self}}, bridge{},
		docker20(self), docker29(self), dockerOverlay(self), underDocker20(self), untrackedDocker20(self),
	}
}

// Counted returns the contestants whose instructions are counted, none of which runs an
// engine. program is Fairlead.
func Counted(program string) []contestant.Contestant {
	nft := ruled{
		name: "nft", version: "bridge, with the rules of Docker Engine 29 (nftables)",
		text: docker29Rules, load: []string{"nft", "-f"},
	}
	flowtable := nft
	flowtable.name, flowtable.version, flowtable.flowtable = "flowtable", nft.version+" and a software flowtable", true
	return []contestant.Contestant{
		limit{}, bridge{}, flowtable, nft,
		ruled{
			name: "iptables", version: "bridge, with the rules of Docker Engine 20.10 (iptables, br_netfilter)",
			text: docker20Rules, load: []string{"iptables-restore"}, filterBridged: true,
		},
		swarmPath{}, fairlead{program},
	}
}

// unmanaged returns why a contestant without a daemon does not have such a case.
func unmanaged(c cases.Case) string {
	if c.Path.Grows() || c.Path == cases.Setup {
		return "it has nothing that grows, nor anyone who makes it"
	}
	return ""
}

// oneHost returns why a contestant whose network is on one host does not have such a case.
func oneHost(c cases.Case) string {
	if c.Path == cases.Overlay {
		return "its network is on one host"
	}
	return ""
}

// onHost returns where a host publishes ports: its own addresses.
func onHost(path cases.Path, family int) netip.Addr {
	if path == cases.Localhost {
		return topology.Loopback(family)
	}
	return topology.HostAddress(family)
}

// published returns the ports that a container publishes, as ExposedPorts and PortBindings
// take them: the given number of TCP ports from Port, and UDP's Port.
func published(ports int) (exposed, bindings map[string]any) {
	exposed, bindings = make(map[string]any), make(map[string]any)
	publish := func(port int, proto string) {
		key := fmt.Sprintf("%d/%s", port, proto)
		exposed[key] = struct{}{}
		bindings[key] = []any{map[string]string{"HostPort": strconv.Itoa(port)}}
	}
	for i := range ports {
		publish(contestant.Port+i, "tcp")
	}
	if ports > 0 {
		publish(contestant.Port, "udp")
	}
	return exposed, bindings
}
