// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// TestUnderlayWithoutEthernet has an underlay by whose device the programs cannot send tunnels: a network is refused
// with the remedies, of which one is encryption, and doctor names a host that is reached by such a device.
func TestUnderlayWithoutEthernet(t *testing.T) {
	p := newPairAt(t, "10.97.0.1", addressB, "embed", storeURL, "--store-token", "none", "--store-listen", "0.0.0.0:2379")
	a, b := p.a, p.b
	for l, own := range map[*lab.Lab]string{a: "10.97.0.1", b: "10.97.0.2"} {
		l.IP(l.Host, "tuntap add far0 mode tun", "addr add "+own+"/24 dev far0", "link set far0 up")
	}
	p.start()
	a.Refused(1, []string{"far0", "no Ethernet header", "--advertise", "-o encrypted"}, "network", "create", "-d", "overlay", "web")
	a.UserSpaceWireGuard()
	a.Fairlead("network", "create", "-d", "overlay", "-o", "encrypted", "secret")
	b.Fairlead("network", "create", "-d", "overlay", "other")
	if r := b.Try("doctor"); !strings.Contains(r.Stdout, "host a at 10.97.0.1 is reached by device far0") || !strings.Contains(r.Stdout, "-o encrypted") {
		t.Errorf("doctor:\n%s", r.Output())
	}
	has(a, "other")
	a.Refused(1, []string{"far0", "no Ethernet header"}, "sandbox", "create", "--network", "other", "one")
}
