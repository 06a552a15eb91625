// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// settled is longer than it takes to repair what others break.
const settled = 3 * time.Second

// switchedOff has IPv6 switched off in a container, as a whole or at its interface: it is
// as with Docker's bridge driver, and stays so. The engine takes the address back and
// gives it to the next container, at which the first loses nothing else.
func switchedOff(d *docker) {
	ways := map[string][]string{"all": {"--network", "%s", "--sysctl", "net.ipv6.conf.all.disable_ipv6=1"}}
	if d.kind.Name != engine20.Name { // which has no settings of an interface
		ways["eth0"] = []string{"--network", "name=%s,driver-opt=com.docker.network.endpoint.sysctls=net.ipv6.conf.IFNAME.disable_ipv6=1"}
	}
	for way, flags := range ways {
		addresses := map[string]string{}
		for i, driver := range []string{"bridge", "fairlead"} {
			d.docker("network", "create", "-d", driver, "--ipv6", "--subnet", fmt.Sprintf("10.6%d.0.0/24", i), "--subnet", fmt.Sprintf("fd6%d::/64", i), "six")
			args := strings.Split(fmt.Sprintf(strings.Join(flags, "\n"), "six"), "\n")
			off := d.run("off", append(args, "-p", "18093:80")...)
			before := d.addresses(off)
			d.Get(d.Outside, lab.Host4, 18093, "off", lab.Outside4)
			time.Sleep(settled)
			next := d.run("next", "--network", "six")
			after := d.addresses(off)
			if after != before {
				d.Errorf("%s, %s: the container had %s, and has %s", way, driver, before, after)
			}
			d.Get(d.Outside, lab.Host4, 18093, "off", lab.Outside4)
			d.Get(next, d.address("off", "six"), 80, "off", d.address("next", "six"))
			d.Get(off, d.address("next", "six"), 80, "next", d.address("off", "six"))
			if driver == "fairlead" {
				if sandboxes := d.Fairlead("ps", "-q"); len(strings.Fields(sandboxes)) != 2 {
					d.Errorf("%s: sandboxes are %q, want two", way, sandboxes)
				}
			}
			addresses[driver] = strings.ReplaceAll(strings.ReplaceAll(after, fmt.Sprintf("10.6%d.", i), "10."), fmt.Sprintf("fd6%d:", i), "fd:")
			d.docker("rm", "-f", "off", "next")
			d.docker("network", "rm", "six")
		}
		if addresses["bridge"] != addresses["fairlead"] {
			d.Errorf("%s: with Docker's bridge driver the container has %s, with Fairlead %s", way, addresses["bridge"], addresses["fairlead"])
		}
	}
}

// addresses are those of a container's eth0, without link-local ones.
func (d *docker) addresses(h *world.Host) string {
	d.Helper()
	var list []string
	for _, line := range strings.Split(d.Must(h, "ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"), "\n") {
		if f := strings.Fields(line); len(f) > 3 {
			list = append(list, f[3])
		}
	}
	return strings.Join(list, " ")
}

// ipv6Alone is a network without IPv4, which Engine 29 has: its containers have none either.
func ipv6Alone(d *docker) {
	d.Must(d.Host, "curl", "-sSf", "--unix-socket", socket, "-H", "Content-Type: application/json", "-d",
		`{"Name": "six", "Driver": "fairlead", "EnableIPv4": false, "EnableIPv6": true, "IPAM": {"Config": [{"Subnet": "fd70::/64"}]}}`, "http://docker/v1.48/networks/create")
	anna, ben := d.run("anna", "--network", "six", "-p", "18094:81"), d.run("ben", "--network", "six")
	d.HTTP(anna, "anna", 81) // the image's server has IPv4 alone
	if got := d.addresses(anna); !strings.HasPrefix(got, "fd70::") || strings.Contains(got, " ") {
		d.Errorf("the container has %s, want an IPv6 address", got)
	}
	address := func(name string) string {
		return d.docker("inspect", "--format", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", name)
	}
	d.Get(ben, address("anna"), 81, "anna", address("ben"))
	d.Get(d.Outside, lab.Host6, 18094, "anna", lab.Outside6)
	d.Get(d.Outside, lab.Host4, 18094, "anna", "")
	d.Get(d.Host, "::1", 18094, "anna", "")
	d.Ping(ben, lab.Internet6)
	if n := d.Fairlead("network", "ls", "--filter", "driver=bridge", "--format", "{{.IPv4}} {{.IPv6}}"); !strings.Contains(n, "false true") {
		d.Errorf("fairlead network ls: %s", n)
	}
	d.docker("rm", "-f", "anna", "ben")
	d.docker("network", "rm", "six")
}
