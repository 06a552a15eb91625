// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The daemon's flags configure the default network and the names of sandboxes, as dockerd's do: also after a restart
// with other flags, but not while a sandbox is in it. Unused, the network is not on the host.
func TestDaemonDefaults(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{NoDaemon: true})
	refused := func(want string, flags ...string) {
		t.Helper()
		r := l.Run(l.Host, l.Binary, l.DaemonArgs(flags...)...)
		if r.Code != 2 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%v: status %d, %s", flags, r.Code, r.Stderr)
		}
		if left, err := filepath.Glob(l.Dir("state") + "/*"); err != nil || len(left) > 0 {
			t.Errorf("%v: it left %v, %v", flags, left, err)
		}
	}
	refused("--bip, --fixed-cidr, --default-gateway: invalid ip-range", "--bip", "10.9.0.1/16", "--fixed-cidr", "10.8.0.0/24")
	refused("--bip6 and --fixed-cidr-v6 need --ipv6", "--bip6", "fd00:9::1/64")
	refused("unknown option a of driver bridge", "--default-network-opt", "bridge=a=b")

	config := l.Write("fairlead.conf", "bip = 10.9.0.1/16\nfixed-cidr = 10.9.7.0/24\nipv6 = true\nbip6 = fd00:9::1/64\nicc = false\nmtu = 1400\nip = 127.0.0.1\n"+
		"default-network-opt = bridge=com.docker.network.driver.mtu=1380\ndns = 192.0.2.53\ndns-search = corp.example\ndns-opt = timeout:1\nhost-gateway-ip = 192.0.2.9\n")
	l.StartDaemon("--config", config)
	route := func() string { return l.Must(l.Host, "ip", "route", "show", "10.9.0.0/16") }
	if got := route(); got != "" {
		t.Errorf("unused, the default network has the route %s", got)
	}
	l.HTTP(l.Outside, "outside", 80)
	a, b := l.Sandbox("anna", "-p", "8080:80", "--add-host", "host:host-gateway"), l.Sandbox("ben")
	l.HTTP(a.Host, "anna", 80)
	l.Get(l.Host, "127.0.0.1", 8080, "anna", "")
	l.NoGet(l.Outside, lab.Host4, 8080)
	families(t, l, func(l *lab.Lab, f lab.Family) {
		l.Dropped("icc", 1, func() { l.NoGet(b.Host, a.IP(f), 80) })
		l.Ping(b.Host, f.Of("10.9.0.1", "fd00:9::1"))
		l.Get(b.Host, f.Of(lab.Outside4, lab.Outside6), 80, "outside", f.Of(lab.Host4, lab.Host6))
	})
	if !strings.HasPrefix(a.IP4.String(), "10.9.7.") || !strings.HasPrefix(b.IP6.String(), "fd00:9::") || !strings.Contains(l.Must(b.Host, "ip", "link", "show", "eth0"), "mtu 1400") {
		t.Errorf("the sandboxes have %v and %v, and %s", a.IP4, b.IP6, l.Must(b.Host, "ip", "link", "show", "eth0"))
	}
	if got := l.Fairlead("exec", "ben", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 192.0.2.53\nsearch corp.example\noptions timeout:1\n") {
		t.Errorf("resolv.conf is\n%s", got)
	}
	if got := l.Fairlead("exec", "anna", "cat", "/etc/hosts"); !strings.Contains(got, "192.0.2.9\thost\n") {
		t.Errorf("hosts is\n%s", got)
	}
	l.Fairlead("network", "create", "web")
	if got := l.Network("web").Options["com.docker.network.driver.mtu"]; got != "1380" {
		t.Errorf("a new network has the MTU %s", got)
	}

	// Other flags, while it is in use and afterwards.
	l.KillDaemon()
	if err := os.WriteFile(config, []byte("bip = 10.10.0.1/16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.StartDaemon("--config", config)
	l.Dropped("icc", 1, func() { l.NoGet(b.Host, a.IP4.String(), 80) })
	l.Remove(a)
	l.Remove(b)
	if got := route(); got != "" {
		t.Errorf("left, the default network has the route %s", got)
	}
	l.StopDaemon()
	l.StartDaemon("--config", config)
	a, b = l.Sandbox("anna"), l.Sandbox("ben")
	l.HTTP(a.Host, "anna", 80)
	l.Get(b.Host, a.IP4.String(), 80, "anna", b.IP4.String())
	if !strings.HasPrefix(a.IP4.String(), "10.10.") || a.IP6.IsValid() {
		t.Errorf("anna has %v and %v", a.IP4, a.IP6)
	}
	l.Remove(a)
	l.Remove(b)

	// A program of the host takes the subnet: a sandbox is refused, and nothing is left of it.
	l.IP(l.Host, "link add elsewhere type veth peer name nowhere", "addr add 10.10.5.5/24 dev elsewhere", "link set elsewhere up")
	l.Refused(1, []string{"--bip", "10.10.5.5"}, "sandbox", "create", "cleo")
	if got := l.Fairlead("ps", "-aq"); got != "" {
		t.Errorf("left is %s", got)
	}
	l.IP(l.Host, "link del elsewhere")
	l.Sandbox("cleo")
}
