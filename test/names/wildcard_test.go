// SPDX-License-Identifier: Apache-2.0

package names

import "testing"

// A wildcard alias stands for the names below it, which its holders have until they leave. An exact name precedes it, and
// a longer wildcard.
func TestWildcards(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "web")
	n.Fairlead("network", "create", "--ipv6", "db")
	a := n.Sandbox("anna", "--network", "web", "--network-alias", "*.app")
	b := n.Sandbox("ben", "--network", "name=web,alias=*.App,alias=*.x.app")
	c := n.Sandbox("carl", "--network", "web", "--network-alias", "exact.app")
	at := "@" + resolver
	either := func(name string) {
		t.Helper()
		first := map[string]bool{}
		for range 40 { // each is first with probability ½
			got := n.dig(c.Host, at, name)
			if got != a.IP4.String()+" "+b.IP4.String() && got != b.IP4.String()+" "+a.IP4.String() {
				t.Fatalf("%s has the addresses %s, want %s and %s", name, got, a.IP4, b.IP4)
			}
			if first[got] = true; len(first) == 2 {
				return
			}
		}
		t.Errorf("the order of the addresses of %s does not change", name)
	}
	either("y.app")
	either("z.y.APP")
	either("y.app.web")
	n.digs(c.Host, b.IP4.String(), at, "y.x.app")
	n.digs(c.Host, c.IP4.String(), at, "exact.app")
	n.digs(c.Host, "NOERROR", at, "y.app", "AAAA")
	n.digs(c.Host, "NXDOMAIN", at, "app")
	n.digs(c.Host, "anna.web.", at, "-x", a.IP4.String())

	n.Fairlead("network", "connect", "--alias", "*.store", "db", "anna")
	d := n.Sandbox("dora", "--network", "db")
	n.digs(d.Host, n.Inspect("anna").NetworkSettings.Networks["db"].GlobalIPv6Address, at, "cold.store", "AAAA")
	n.digs(d.Host, "NXDOMAIN", at, "y.app")
	n.contains(n.in("dora", "getent", "ahostsv4", "cold.store"), n.Inspect("anna").NetworkSettings.Networks["db"].IPAddress)
	n.KillDaemon()
	n.StartDaemon()
	either("y.app")

	n.Fairlead("network", "disconnect", "db", "anna")
	n.digs(d.Host, "NXDOMAIN", at, "cold.store")
	n.Remove(b)
	n.digs(c.Host, a.IP4.String(), at, "y.x.app")
	n.Remove(a)
	n.digs(c.Host, "NXDOMAIN", at, "y.app")
	n.digs(c.Host, c.IP4.String(), at, "exact.app")

	for _, bad := range []string{"*", "*app", "x.*.app", "x.*"} {
		n.Refused(1, []string{`"` + bad + `"`, "*.NAME"}, "sandbox", "create", "--network", "web", "--network-alias", bad, "x1")
		n.Refused(1, []string{`"` + bad + `"`, "*.NAME"}, "network", "connect", "--alias", bad, "web", "dora")
	}
	n.Refused(1, []string{"network-scoped aliases", "fairlead network create"}, "sandbox", "create", "--network-alias", "*.app", "x1")
}
