// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/test/lab"
)

// unusedDefault: Fairlead's default network, which no sandbox is in, has no device and no route, and
// the engine may have the subnet. In use it takes another, and both work.
func unusedDefault(d *docker) {
	subnet := func() netip.Prefix {
		d.Helper()
		n := d.Network("bridge")
		if len(n.IPAM.Config) != 1 {
			d.Fatalf("the default network, in use, is %+v", n)
		}
		return netip.MustParsePrefix(n.IPAM.Config[0].Subnet)
	}
	unused := func() {
		d.Helper()
		n := d.Network("bridge")
		if len(n.IPAM.Config) != 0 {
			d.Errorf("unused, the default network has %+v", n.IPAM.Config)
		}
		if links := d.Must(d.Host, "ip", "-o", "link"); strings.Contains(links, n.ID) {
			d.Errorf("devices are there:\n%s", links)
		}
	}
	routes := func() []string { // without those of networks that Fairlead may forget meanwhile (loses)
		d.Helper()
		return slices.DeleteFunc(strings.Split(d.Must(d.Host, "ip", "route"), "\n"), func(line string) bool {
			return strings.HasPrefix(line, lostSubnet) || strings.HasPrefix(line, lostPool)
		})
	}
	unused()
	d.Remove(d.Sandbox("first"))
	before := routes()
	mine := d.Sandbox("mine")
	had := subnet()
	d.Remove(mine)
	unused()
	if after := routes(); !slices.Equal(after, before) {
		d.Errorf("routes were\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}

	d.docker("network", "create", "--subnet", had.String(), "theirs")
	box := d.run("box", "--network", "theirs", "-p", "18095:80")
	served := func() {
		d.Helper()
		d.Get(d.Outside, lab.Host4, 18095, "box", "")
		d.Get(d.Host, "127.0.0.1", 18095, "box", "")
		d.Get(d.Host, d.address("box", "theirs"), 80, "box", "")
		d.Ping(box, lab.Internet4)
	}
	served()
	mine = d.Sandbox("mine", "-p", "18096:80")
	if now := subnet(); now.Overlaps(had) {
		d.Errorf("the default network takes %v, where the engine has %v", now, had)
	}
	d.HTTP(mine.Host, "mine", 80)
	d.Get(d.Outside, lab.Host4, 18096, "mine", lab.Outside4)
	d.Get(box, lab.Host4, 18096, "mine", "")
	served()
	d.Remove(mine)
	unused()
	d.docker("rm", "-f", "box")
	d.docker("network", "rm", "theirs")
}
