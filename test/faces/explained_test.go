// SPDX-License-Identifier: Apache-2.0

package faces

// difference is an observation of some front ends that differs from that of the reference, with the
// reason.
type difference struct {
	why        string
	observed   string
	faces      []string
	behaviours []string
}

var (
	// fairleads are the front ends with Fairlead.
	fairleads = append([]string{"CRI"}, several...)
	// several are the front ends with Fairlead under which a user has several networks.
	several = []string{"docker + fairlead", "docker 29 + fairlead", "podman 4", "podman 5", "CNI", "fairlead"}
	// plugged are the front ends in which an engine calls a plugin.
	plugged = []string{"docker + fairlead", "docker 29 + fairlead"}
	// own are the front ends under which Fairlead chooses addresses and routes, and no engine serves names.
	own = append([]string{"CRI"}, free...)
	// free are those of own under which a user has several networks.
	free = []string{"podman 4", "podman 5", "CNI", "fairlead"}
	// runtimes are the front ends that learn of containers through CNI alone.
	runtimes = []string{"CNI", "CRI"}
	// sixth are the front ends that treat IPv6 like IPv4.
	sixth = append([]string{"docker 29"}, fairleads...)
)

// Reasons for more than one observation.
const (
	noProxy = "docker-proxy takes the client's place, and its replies come from another address than the client sent to; with Fairlead there is no proxy between client and server."
	noIPv6  = "Engine 20.10 creates no rules for IPv6 unless configured to: containers keep their address towards the outside, can be reached there, and docker-proxy serves their ports; Engine 29 and Fairlead treat both families alike."
	direct  = "Engine 20.10 accepts packets to the container address of a published port from everywhere; with Engine 29 and Fairlead only published ports can be reached from outside."
	proxies = "docker-proxy, which serves the host's loopback addresses and neighbours, dies with Docker; with Fairlead the kernel alone serves them."
	ended   = "Neither CNI nor netavark notifies a plugin that a network was removed; `fairlead network rm` removes it."
	numbers = "CNI does not let a plugin choose a port; the runtime chooses."
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
		"A connection from a program on the host is redirected to the container when it is opened, so its source address is chosen for the route to the container: it is the gateway.",
		"gateway", fairleads, []string{
			"published TCP from the host by its address",
			"published UDP from the host by its address",
		},
	},
	{
		"Engine 29's docker-proxy replies from the address that the client sent to.",
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
		"Docker does not query a plugin for its ports; `fairlead ps` and `fairlead port` show them.",
		"no", plugged, []string{"published ports are shown"},
	},
	{
		"CNI and crictl have no command for it; `fairlead port` shows them.",
		"n/a", runtimes, []string{"published ports are shown"},
	},
	{numbers, "no", runtimes, []string{
		"a port is chosen for -p 81, and answers outside",
		"a port is chosen for -p 127.0.0.1::82, and answers there",
	}},
	{
		"The kernel's route lookup for BPF returns the MTU of a route only if the route locks it (`mtu lock`).",
		"they pass", fairleads, []string{"a container learns the MTU of a route of the host"},
	},
	{
		"With Fairlead the source must be the container's own; `-o fairlead.antispoof=false` allows others.",
		"no", fairleads, []string{"a container uses an address it gave itself"},
	},
	{
		"Fairlead creates no netfilter rules: its tables are BPF maps.",
		"no", fairleads, []string{"publishing changes netfilter's rules"},
	},
	{proxies, "gateway", fairleads, []string{"then, published TCP from the host at 127.0.0.1"}},
	{proxies, "gateway", fairleads, []string{"then, published TCP from a neighbour"}},
	{
		"A CRI pod uses the resolvers that its configuration names.",
		"no", []string{"CRI"}, []string{"the name of a container", "its alias", "its short ID"},
	},
	{
		"Docker's resolver needs rules in the container; without it the container queries the host's resolver itself.",
		"yes", free, []string{"the same, after the container flushed its own netfilter rules"},
	},
	{
		"A released address is not allocated again soon, not even to its previous owner.",
		"another", own, []string{"an address that was not fixed, after a restart"},
	},
	{ended, "devices, routes", []string{"podman 4", "podman 5"}, []string{"what is left of a removed network"}},
	{ended, "n/a", runtimes, []string{"what is left of a removed network", "removal of a network that is in use"}},
	{
		"CRI has a single network for all pods.",
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
			"the default route, with a second network whose name sorts later",
			"the published port then: the server sees",
			"the default route, with a third network whose name sorts first",
			"the published port then, again",
			"disconnect while running: the network is reached",
			"the default route after that",
			"the published port after that: the server sees",
		},
	},
	{
		"CRI has no setting for a pod's address.",
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
