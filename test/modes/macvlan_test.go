// SPDX-License-Identifier: Apache-2.0

// Package modes tests networks whose members' devices are on top of a device of the host, with the real daemon and real
// traffic.
package modes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// lan are the flags of a network in the subnets of the link between the host and outside.
func lan(more ...string) []string {
	return append([]string{"network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.64/26",
		"--ipv6", "--subnet", "2001:db8:1::/64", "--ip-range", "2001:db8:1::100/120"}, more...)
}

// Members reach each other and the link with addresses of it, and the host not; no device of them is on the host, and no
// program sees their packets.
func TestMacvlan(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("--gateway", "192.0.2.254", "--gateway", "2001:db8:1::fe", "lan")...)
	before := l.Devices("fairlead:")
	a, b := l.Sandbox("anna", "--network", "lan"), l.Sandbox("ben", "--network", "lan", "--ip", "192.0.2.99", "--mac-address", "02:00:00:00:00:99")
	if now := l.Devices("fairlead:"); len(now) != len(before) {
		l.Errorf("the host has devices of sandboxes: %v, before %v", now, before)
	}
	if b.IP4.String() != "192.0.2.99" || b.MAC != "02:00:00:00:00:99" || a.IP4.String() != "192.0.2.64" {
		l.Errorf("addresses are %v %v, %v", a.IP4, b.IP4, b.MAC)
	}
	l.HTTP(b.Host, "ben", 80)
	for _, f := range lab.Families() {
		outside := f.Of(lab.Outside4, lab.Outside6)
		l.Ping(a.Host, b.IP(f))
		l.Get(a.Host, b.IP(f), 80, "ben", a.IP(f))
		l.Ping(a.Host, outside)
		l.Ping(a.Host, f.Of(lab.Internet4, lab.Internet6)) // by the default route
		l.Get(l.Outside, b.IP(f), 80, "ben", outside)
		l.NoPing(l.Host, b.IP(f))
		l.NoPing(b.Host, f.Of(lab.Host4, lab.Host6))
	}
	l.Remove(a)
	l.Remove(b)
	l.Fairlead("network", "rm", "lan")
	if now := l.Devices("fairlead:"); len(now) != 0 {
		l.Errorf("left on the host: %v", now)
	}
}

// A restart finds the devices, and damage is repaired.
func TestMacvlanRepairs(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Fairlead(lan("lan")...)
	a := l.Sandbox("anna", "--network", "lan")
	works := func() error {
		if r := l.Run(l.Outside, "ping", "-c1", "-W1", a.IP4.String()); r.Code != 0 {
			return fmt.Errorf("outside does not reach %v: %s", a.IP4, r.Output())
		}
		if out := l.Must(a.Host, "ip", "-d", "link", "show", "eth0"); !strings.Contains(out, "macvlan mode bridge") || !strings.Contains(out, a.MAC) {
			return fmt.Errorf("eth0 is %s", out)
		}
		return nil
	}
	for name, harm := range map[string]func(){
		"device deleted":  func() { l.IP(a.Host, "link del eth0") },
		"device down":     func() { l.IP(a.Host, "link set eth0 down") },
		"mode changed":    func() { l.IP(a.Host, "link set eth0 type macvlan mode private") },
		"MAC changed":     func() { l.IP(a.Host, "link set eth0 address 02:00:00:00:00:77") },
		"address deleted": func() { l.IP(a.Host, "addr flush dev eth0") },
		"killed":          func() { l.KillDaemon(); l.StartDaemon() },
		"deleted while killed": func() {
			l.KillDaemon()
			l.IP(a.Host, "link del eth0")
			l.StartDaemon()
		},
		"parent down": func() {
			l.IP(l.Host, "link set eth0 down")
			time.Sleep(300 * time.Millisecond)
			l.IP(l.Host, "link set eth0 up")
		},
	} {
		harm()
		l.Case(name, func(l *lab.Lab) { l.Eventually(8*time.Second, works) })
	}
}
