// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A sandbox's namespace has the settings of --sysctl before its interfaces, and no other has them. What its program
// changes stays. A wrong one is refused, and nothing is made.
func TestNamespaceSettings(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	read := func(sandbox, name string) string {
		t.Helper()
		return strings.Join(strings.Fields(l.Fairlead("exec", sandbox, "cat", "/proc/sys/net/"+name)), " ")
	}
	expect := func(sandbox, name, want string) {
		t.Helper()
		if got := read(sandbox, name); got != want {
			t.Errorf("%s of %s is %q, want %q", name, sandbox, got, want)
		}
	}
	before := l.Must(l.Host, "cat", "/proc/sys/net/ipv4/ip_local_port_range")
	a := l.Sandbox("anna", "--network", web, "--sysctl", "net.ipv4.ip_local_port_range=20000 20009", "--sysctl", "net.ipv4.conf.default.log_martians=1", "--sysctl", "net.ipv4.ip_unprivileged_port_start=0")
	b := l.Sandbox("ben", "--network", web)
	expect("anna", "ipv4/ip_local_port_range", "20000 20009")
	expect("anna", "ipv4/ip_unprivileged_port_start", "0")
	if got := read("ben", "ipv4/ip_local_port_range"); got == "20000 20009" || l.Must(l.Host, "cat", "/proc/sys/net/ipv4/ip_local_port_range") != before {
		t.Errorf("ben has it too, or the host: %s", got)
	}
	l.HTTP(b.Host, "ben", 80)
	l.Get(a.Host, b.IP4.String(), 80, "ben", a.IP4.String())
	if got := l.Inspect("anna").HostConfig.Sysctls; got["net.ipv4.ip_unprivileged_port_start"] != "0" || len(got) != 3 {
		t.Errorf("inspect shows %v", got)
	}
	if got := l.Fairlead("run", "--rm", "--net", "none", "--sysctl", "net.ipv4.ip_forward=1", "cat", "/proc/sys/net/ipv4/ip_forward"); got != "1" {
		t.Errorf("run --net none sees %q", got)
	}
	c := l.Sandbox("cleo", "--net", web, "--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
	if got := l.Must(c.Host, "ip", "-6", "addr"); got != "" {
		t.Errorf("without IPv6 cleo has %s", got)
	}

	l.Fairlead("exec", "anna", "sh", "-c", "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start")
	l.KillDaemon()
	l.StartDaemon()
	expect("anna", "ipv4/ip_unprivileged_port_start", "1024")
	expect("anna", "ipv4/ip_local_port_range", "20000 20009")

	for sysctl, want := range map[string]string{
		"net.ipv4.bogus=1":                  "sysctl net.ipv4.bogus is not one of a network namespace",
		"net.core.netdev_max_backlog=1":     "sysctl net.core.netdev_max_backlog is not one of a network namespace",
		"net.ipv4.ip_forward=maybe":         `sysctl net.ipv4.ip_forward cannot be "maybe"`,
		"kernel.hostname=x":                 "sysctl 'kernel.hostname' is not allowed",
		"net.ipv4.conf.eth0.log_martians=1": "com.docker.network.endpoint.sysctls",
		"net.ipv4.conf.all.log_martians":    "give one: NAME=VALUE",
	} {
		l.Refused(1, []string{want}, "sandbox", "create", "--sysctl", sysctl, "dora")
	}
	l.Refused(1, []string{"not allowed in host network namespace"}, "sandbox", "create", "--network", "host", "--sysctl", "net.ipv4.ip_forward=1", "dora")
	if got := l.Fairlead("ps", "-a", "--format", "{{.Names}}"); strings.Contains(got, "dora") || len(l.Namespaces()) != 3 {
		t.Errorf("left are %q and namespaces %v", got, l.Namespaces())
	}
}
