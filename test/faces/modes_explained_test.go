// SPDX-License-Identifier: Apache-2.0

package faces

// newer are the faces of modeColumns that are not Engine 20.10.
var newer = []string{"docker 29", "fairlead"}

var explainedModes = []difference{
	{
		"Engine 20.10 has one macvlan network on a parent; Engine 29 and Fairlead allow several, as the kernel does.",
		"accepted", newer, []string{"macvlan: a second network on the parent"},
	},
	{
		"Engine 20.10 ignores the address, since there is no interface for it.",
		"refused", newer, []string{"container: --ip"},
	},
	{
		"Docker removes the interfaces under the container that shares them; Fairlead wants that container removed first.",
		"refused", []string{"fairlead"}, []string{"container: removal of the other by force"},
	},
	{
		"Names change at once; programs that keep answers should not keep a former address for ten minutes.",
		"5", []string{"fairlead"}, []string{"names: seconds that an answer is valid"},
	},
	{
		"In Docker it is an address of the default bridge, in Fairlead that of the gateway of the sandbox, unless `--host-gateway-ip` is given.",
		"its network", []string{"fairlead"}, []string{"names: host-gateway is the gateway of"},
	},
	{
		"Docker accepts an alias that nobody can look up; Fairlead refuses it.",
		"refused", []string{"fairlead"}, []string{"default network: --network-alias"},
	},
	{
		"Docker ignores an address in its default network.",
		"yes", []string{"fairlead"}, []string{"default network: the address of --ip"},
	},
	{
		"Engine 20.10 takes the subnet around the address; Engine 29 and Fairlead refuse it, and name that subnet.",
		"refused", newer, []string{"network create: a subnet with host bits"},
	},
	{
		"The programs accept one address of each family from an interface ([docker-parity.md](docker-parity.md)).",
		"refused", []string{"fairlead"}, []string{"run: --link-local-ip"},
	},
}
