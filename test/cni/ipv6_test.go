// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A network whose subnets, or whose leases, are of IPv6 alone has no IPv4, and works.
func TestNetworksOfIPv6Alone(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	for name, keys := range map[string]config{
		"own":    {"subnets": []config{{"subnet": "fd88::/64"}}},
		"leased": {"ipam": config{"type": "host-local", "dataDir": r.Dir("leases"), "ranges": [][]config{{{"subnet": "fd89::/64"}}}, "routes": []config{{"dst": "::/0"}}}},
	} {
		pods := r.list("1.0.0", name, keys)
		a, b := r.container(name+"-anna", config{"portMappings": []config{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}), r.container(name+"-ben", nil)
		res := a.add(pods)
		if len(res.IPs) != 1 || res.IPs[0].Address.IP.To4() != nil || len(res.Routes) != 1 {
			t.Errorf("%s: ADD gives %v and %v, want one address of IPv6 and its default route", name, res.IPs, res.Routes)
		}
		if got := r.Must(a.Host, "ip", "-4", "-o", "addr", "show", "dev", "eth0"); got != "" {
			t.Errorf("%s: the interface has %s", name, got)
		}
		if n := r.Network(name); n.EnableIPv4 || len(n.IPAM.Config) != 1 {
			t.Errorf("%s: network = %+v", name, n)
		}
		r.HTTP(a.Host, "anna", 80)
		address := b.add(pods).IPs[0].Address.IP.String()
		r.Get(r.Outside, lab.Host6, 8080, "anna", lab.Outside6)
		r.Get(r.Outside, lab.Host4, 8080, "anna", "")
		r.Get(b.Host, res.IPs[0].Address.IP.String(), 80, "anna", address)
		r.Ping(b.Host, lab.Internet6)
		if err := a.check(pods); err != nil {
			t.Errorf("%s: CHECK: %v", name, err)
		}
		a.del(pods)
		b.del(pods)
	}
}

// IPv6 that the owner of a namespace switches off, before ADD or after it, stays off, and is
// no damage; switched on again it works.
func TestIPv6SwitchedOff(t *testing.T) {
	t.Parallel()
	r := newRuntime(t, lab.Config{})
	pods := r.list("1.0.0", "pods", config{"subnets": []config{{"subnet": "10.88.9.0/24"}, {"subnet": "fd8a::/64"}}})
	before, all, device := r.container("before", nil), r.container("all", nil), r.container("device", nil)
	r.Sysctl(before.Host, "ipv6/conf/all/disable_ipv6", "1")
	containers := []*container{before, all, device}
	for _, c := range containers {
		c.add(pods)
	}
	r.Sysctl(all.Host, "ipv6/conf/all/disable_ipv6", "1")
	r.Sysctl(device.Host, "ipv6/conf/eth0/disable_ipv6", "1")
	time.Sleep(twoTicks)
	has6 := func(c *container) bool {
		return strings.Contains(r.Must(c.Host, "ip", "-6", "-o", "addr", "show", "dev", "eth0"), "fd8a::")
	}
	for _, c := range containers {
		if has6(c) {
			t.Errorf("%s has IPv6", c.Name)
		}
		if err := c.check(pods); err != nil {
			t.Errorf("CHECK of %s: %v", c.Name, err)
		}
		if has6(c) {
			t.Errorf("%s has IPv6 after CHECK", c.Name)
		}
		r.Ping(c.Host, lab.Internet4)
	}
	for kind, n := range r.Metrics().Repairs() {
		if n > 0 {
			t.Errorf("%v repairs of kind %s, want none", n, kind)
		}
	}
	for _, c := range containers {
		for _, name := range []string{"all", "eth0"} {
			r.Sysctl(c.Host, "ipv6/conf/"+name+"/disable_ipv6", "0")
		}
	}
	slices.Reverse(containers)
	for _, c := range containers {
		r.Eventually(10*time.Second, func() error { return c.check(pods) })
		r.Ping(c.Host, lab.Internet6)
	}
}

// twoTicks is longer than it takes to repair what others break.
const twoTicks = 5 * time.Second
