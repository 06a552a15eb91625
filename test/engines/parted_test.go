// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A container whose ways out by IPv4 and by IPv6 are in two networks is reached by both,
// whether it joins them while it runs or starts in them. Beside a network of Docker's own
// Fairlead takes only what that leaves.
func parted(d *docker) {
	d.docker("network", "create", "-d", "fairlead", "--ipv6", "--subnet", "10.75.0.0/24", "--subnet", "fd00:75::/64", "dual")
	d.docker("network", "create", "-d", "fairlead", "four")
	d.docker("network", "create", "--ipv6", "--subnet", "fd00:76::/64", "theirs")
	answers := func(name string, port int) {
		d.Helper()
		d.Get(d.Outside, lab.Host4, port, name, "")
		d.Get(d.Outside, lab.Host6, port, name, "")
	}
	g1 := d.run("g1", "--network", "dual", "-p", "18080:8080")
	d.HTTP(g1, "g1", 8080)
	answers("g1", 18080)
	for range 2 {
		d.connect("four", "g1", 100)
		answers("g1", 18080)
		d.docker("network", "disconnect", "four", "g1")
		answers("g1", 18080)
	}

	d.docker("create", "--name", "g2", "--network", "four", "-p", "18081:8080", image)
	d.connect("dual", "g2", -1)
	d.docker("start", "g2")
	g2 := d.enter("g2")
	d.HTTP(g2, "g2", 8080)
	answers("g2", 18081)
	d.docker("network", "disconnect", "dual", "g2")
	d.Get(d.Outside, lab.Host4, 18081, "g2", "")
	d.connect("dual", "g2", -1)
	answers("g2", 18081)
	g2.Close()

	g3 := d.run("g3", "--network", "theirs", "-p", "18082:8080")
	d.HTTP(g3, "g3", 8080)
	d.connect("four", "g3", 100)
	answers("g3", 18082)
	d.docker("rm", "-f", "g1", "g2", "g3")
	d.docker("network", "rm", "dual", "four", "theirs")
}

// connect joins a container to a network with a priority of its gateways, which the
// package's command does not know.
func (d *docker) connect(network, container string, priority int) {
	d.Helper()
	d.Must(d.Host, "curl", "-sS", "--fail-with-body", "--unix-socket", socket, "-H", "Content-Type: application/json",
		"-d", fmt.Sprintf(`{"Container":%q,"EndpointConfig":{"GwPriority":%d}}`, container, priority), "http://docker/networks/"+network+"/connect")
}
