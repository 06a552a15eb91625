// SPDX-License-Identifier: Apache-2.0

package faces

// difference is an observation that is not the reference's, with the reason.
type difference struct {
	why        string
	observed   string
	faces      []string
	behaviours []string
}

var (
	// fairleads are the faces with Fairlead.
	fairleads = append([]string{"CRI"}, several...)
	// several are those of them where a user has several networks.
	several = []string{"docker + fairlead", "docker 29 + fairlead", "podman 4", "podman 5", "CNI", "fairlead"}
	// plugged are those where an engine tells a plugin what to do.
	plugged = []string{"docker + fairlead", "docker 29 + fairlead"}
	// own are those where Fairlead chooses addresses and ways, and no engine serves names.
	own = append([]string{"CRI"}, free...)
	// free are those of them where a user has several networks.
	free = []string{"podman 4", "podman 5", "CNI", "fairlead"}
	// unnamed are those where a program does not ask the gateway for names.
	unnamed = []string{"CRI", "fairlead"}
	// runtimes are those that are told of containers by CNI alone.
	runtimes = []string{"CNI", "CRI"}
	// sixth are those that treat IPv6 as IPv4.
	sixth = append([]string{"docker 29"}, fairleads...)
)

// Reasons for more than one observation.
const (
	noProxy = "Docker's docker-proxy asks in the client's place, and its datagrams come back from another address than was asked; with Fairlead nothing is between client and server."
	noIPv6  = "Engine 20.10 makes no rules for IPv6 unless told to: containers keep their address outside, are reached there, and docker-proxy serves their ports; Engine 29 and Fairlead treat both families alike."
	direct  = "Engine 20.10 lets packets to a published port's container in from everywhere; with Engine 29 and Fairlead nothing is reached from outside but what is published."
	proxies = "docker-proxy dies with Docker, and serves the host's loopback addresses and neighbours; with Fairlead only the kernel does."
	ended   = "Neither CNI nor netavark tells a plugin of the end of a network; `fairlead network rm` removes it."
	numbers = "CNI has no port that is chosen; a runtime chooses."
)

var explained = []difference{
	{noProxy, "gateway", several, []string{"published UDP from another network"}},
	{noProxy, "gateway", fairleads, []string{
		"published UDP from a neighbour",
		"published UDP from the container itself",
	}},
	{noProxy, "client", fairleads, []string{
		"published over IPv6 from outside",
		"published over IPv6, UDP, from outside",
	}},
	{
		"A connection of a program on the host is led to the container when it is opened, and its source is chosen for that way: it is the gateway.",
		"gateway", fairleads, []string{
			"published TCP from the host by its address",
			"published UDP from the host by its address",
		},
	},
	{
		"Engine 29's docker-proxy answers from the address that was asked.",
		"gateway", []string{"docker 29"}, []string{
			"published UDP from a neighbour",
			"published UDP from another network",
			"published UDP from the container itself",
		},
	},
	{noIPv6, "client", []string{"docker 29"}, []string{
		"published over IPv6 from outside",
		"published over IPv6, UDP, from outside",
		"published over IPv6 from the host by its address",
	}},
	{noIPv6, "host", sixth, []string{"container to outside, IPv6: the server sees"}},
	{noIPv6, "no", sixth, []string{"outside, straight to the IPv6 address of a container"}},
	{direct, "no", sixth, []string{"outside, straight to the address of a container: its published port"}},
	{
		"Docker does not ask a plugin for its ports; `fairlead ps` and `fairlead port` show them.",
		"no", plugged, []string{"published ports are shown"},
	},
	{
		"CNI and crictl have no word for it; `fairlead port` shows them.",
		"n/a", runtimes, []string{"published ports are shown"},
	},
	{numbers, "no", runtimes, []string{
		"a port is chosen for -p 81, and answers outside",
		"a port is chosen for -p 127.0.0.1::82, and answers there",
	}},
	{
		"The kernel's route lookup for BPF knows the MTU of a route only where the route locks it (`mtu lock`).",
		"they pass", fairleads, []string{"a container learns the MTU of a route of the host"},
	},
	{
		"With Fairlead the source must be the container's own; `-o fairlead.antispoof=false` lets others pass.",
		"no", fairleads, []string{"a container uses an address it gave itself"},
	},
	{
		"Fairlead makes no rules: its tables are BPF's.",
		"no", fairleads, []string{"publishing changes netfilter's rules"},
	},
	{proxies, "gateway", fairleads, []string{"then, published TCP from the host at 127.0.0.1"}},
	{proxies, "gateway", fairleads, []string{"then, published TCP from a neighbour"}},
	{
		"A program of `fairlead run` sees the host's resolvers, and a pod of CRI those that its configuration names.",
		"no", unnamed, []string{"the name of a container", "its alias", "its short ID"},
	},
	{
		"Docker's resolver is reached by rules in the container; without it the container asks the host's resolver itself.",
		"yes", free, []string{"the same, after the container flushed its own netfilter rules"},
	},
	{
		"An address that was given back is not given away soon, to its old owner neither.",
		"another", own, []string{"an address nobody fixed, after a restart"},
	},
	{
		"The way out is the first joined network that has one; Docker takes the first by name.",
		"other", free, []string{"the way out, with a third network of the first name"},
	},
	{ended, "devices, routes", []string{"podman 4", "podman 5"}, []string{"what a network leaves that is removed"}},
	{ended, "n/a", runtimes, []string{"what a network leaves that is removed", "removal of a network that is in use"}},
	{
		"CRI knows one network, that of all pods.",
		"n/a", []string{"CRI"}, []string{
			"the same, after the container flushed its own netfilter rules",
			"the same, from an internal network",
			"container to a container of another network",
			"internal network: container to container",
			"internal network: container to outside",
			"internal network: host to container",
			"icc=false: container to container",
			"icc=false: container to outside",
			"icc=false: container to a neighbour's published port",
			"container to the gateway of another network: ping",
			"published TCP from another network",
			"published TCP from an internal network",
			"published UDP from another network",
			"MTU with driver.mtu=1400",
			"connect while running: the new network is reached",
			"and the old one",
			"the way out, with a second network of a later name",
			"the published port then: the server sees",
			"the way out, with a third network of the first name",
			"the published port then, again",
			"disconnect while running: the network is reached",
			"the way out after that",
			"the published port after that: the server sees",
		},
	},
	{
		"CRI lets nobody say what address a pod has.",
		"n/a", []string{"CRI"}, []string{
			"an address outside of the subnet",
			"an address that another container has",
			"a fixed address",
			"a fixed MAC",
			"the fixed address after a restart",
			"the fixed MAC after a restart",
		},
	},
}
