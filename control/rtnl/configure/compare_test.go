// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// Changes of the interface and the default routes by a program in a sandbox are reported. A route
// that comes after Fairlead's, or has another destination, is not.
func TestCompare(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	for _, tt := range []struct {
		harm, mend string // arguments of ip
		wrong      string // "" if nothing is
	}{
		{"", "", ""},
		{"link set eth0 down; link set eth0 name foo0; link set foo0 up", "link set foo0 down; link set foo0 name eth0", `interface "eth0" was renamed to "foo0"`},
		{"link set eth0 down; link set eth0 name foo0; link add eth0 type veth peer name other", "link del eth0; link set foo0 name eth0", `interface "eth0" was renamed to "foo0"`},
		{"route replace default via 192.0.2.99 dev eth0", "route del default", `"default via 192.0.2.99 dev eth0" is used instead of "default via 192.0.2.1 dev eth0"`},
		{"route replace default dev lo", "route del default", `"default dev lo" is used instead of`},
		{"-6 route add default via 2001:db8::99 dev eth0 metric 9", "-6 route del default via 2001:db8::99", `"default via 2001:db8::99 dev eth0" is used instead of "default via 2001:db8::1 dev eth0"`},
		{"route add default via 192.0.2.99 dev eth0 metric 9", "route del default metric 9", ""},
		{"route add 198.51.100.0/24 via 192.0.2.99 dev eth0", "", ""},
		{"route del default", "", "there is no default route via 192.0.2.1 dev eth0"},
	} {
		if _, err := Sandbox(ns, []Device{d}); err != nil {
			t.Fatal(err)
		}
		inSandbox(t, ns, tt.harm)
		err := Compare(ns, d.PeerIndex, "eth0", d.Gateways)
		if ok := err == nil; ok != (tt.wrong == "") || !ok && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("after ip %s: %v, want %q", tt.harm, err, tt.wrong)
		}
		inSandbox(t, ns, tt.mend)
	}
	inSandbox(t, ns, "link del eth0")
	if err := Compare(ns, d.PeerIndex, "eth0", nil); err == nil || !strings.Contains(err.Error(), `"eth0" does not exist`) {
		t.Errorf("without the device: %v", err)
	}
}

// inSandbox runs iproute2 in the namespace, once for each part between semicolons.
func inSandbox(t *testing.T, ns *rtnl.NetNS, commands string) {
	t.Helper()
	each := strings.FieldsFunc(commands, func(r rune) bool { return r == ';' })
	if err := ns.Do(func() error { return rtnltest.IP(each...) }); err != nil {
		t.Fatal(err)
	}
}
