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
	fairleads = []string{"docker + fairlead", "fairlead"}
	// unnamed are those where nobody serves names.
	unnamed = []string{"fairlead"}
	// plain are those that choose addresses and ways as Fairlead does by itself.
	plain = []string{"fairlead"}
)

// Reasons for more than one observation.
const (
	noProxy = "Docker's docker-proxy asks in the client's place, and its datagrams come back from another address than was asked; with Fairlead nothing is between client and server."
	noIPv6  = "Engine 20.10 sets no rules for IPv6 unless told to; Fairlead treats both families alike."
	direct  = "Engine 20.10 lets a published port's packets in from everywhere (since 28 it does not); with Fairlead nothing is reached from outside but what is published."
	names   = "The command line serves no names yet; a resolver is the engine's or runtime's part."
)

var explained = []difference{
	{noProxy, "client", fairleads, []string{
		"icc=false: container to a neighbour's published port",
		"published TCP from a neighbour",
		"published TCP from a neighbour at the gateway",
		"published TCP from another network",
		"published UDP from a neighbour",
		"published UDP from another network",
		"published over IPv6 from outside",
		"published over IPv6 from a neighbour",
	}},
	{noProxy, "gateway", fairleads, []string{"published UDP from the container itself"}},
	{"The connection of a program on the host is led to the container when it is opened, and its source is chosen for that way: it is the gateway.",
		"gateway", fairleads, []string{
			"published TCP from the host by its address",
			"published UDP from the host by its address",
		}},
	{noIPv6, "host", fairleads, []string{"container to outside, IPv6: the server sees"}},
	{noIPv6, "no", fairleads, []string{"outside, straight to the IPv6 address of a container"}},
	{direct, "no", fairleads, []string{"outside, straight to the address of a container: its published port"}},
	{"Docker does not ask a plugin for its ports; `fairlead ps` and `fairlead port` show them.",
		"no", []string{"docker + fairlead"}, []string{"published ports are shown"}},
	{"The kernel's route lookup for BPF knows the MTU of a route only where the route locks it.",
		"they pass", fairleads, []string{"a container learns the MTU of a route of the host"}},
	{"With Fairlead the source must be the container's own; `-o fairlead.antispoof=false` lets others pass.",
		"no", fairleads, []string{"a container uses an address it gave itself"}},
	{"Fairlead makes no rules: its tables are BPF's.",
		"no", fairleads, []string{"publishing changes netfilter's rules"}},
	{"Docker's docker-proxy dies with it, and serves the host's and the neighbours' connections; with Fairlead only the kernel does.",
		"gateway", fairleads, []string{"then, published TCP from the host at 127.0.0.1"}},
	{"Docker's docker-proxy dies with it, and serves the host's and the neighbours' connections; with Fairlead only the kernel does.",
		"client", fairleads, []string{"then, published TCP from a neighbour"}},
	{names, "no", unnamed, []string{"the name of a container", "its alias", "its short ID"}},
	{"Docker's resolver is reached by rules in the container; without it the container asks the host's resolver itself.",
		"yes", unnamed, []string{"the same, after the container flushed its own netfilter rules"}},
	{"A container is made anew, and Fairlead does not give away soon what it took back.",
		"another", plain, []string{"an address nobody fixed, after a restart"}},
	{"The way out is the first joined network that has one; Docker takes the first by name.",
		"other", plain, []string{"the way out, with a third network of the first name"}},
}
