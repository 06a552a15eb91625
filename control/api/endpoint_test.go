// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/model"
)

// What is asked of the first network of a sandbox reaches the daemon, also if it is one thing only; a request without any
// says nothing about the network.
func TestFirstNetworkOfASandbox(t *testing.T) {
	mac, err := model.ParseMAC("02:00:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]model.EndpointSpec{
		"priority":  {GwPriority: 1},
		"alias":     {Aliases: []string{"web"}},
		"link":      {Links: []model.Link{ParseLink("db:store")}},
		"MAC":       {MAC: mac},
		"interface": {IfName: "lan0"},
		"sysctls":   {Sysctls: []model.Sysctl{{Family: "ipv6", Table: "conf", Key: "accept_ra", Value: "2"}}},
	} {
		want.Network = "edge"
		create := NewSandboxCreate(model.SandboxSpec{NetworkMode: "edge", Endpoint: want})
		got, err := create.Spec("x")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got.Endpoint, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, mode := range []string{"", "host", "edge"} {
		if c := NewSandboxCreate(model.SandboxSpec{NetworkMode: mode}); c.NetworkingConfig.EndpointsConfig != nil {
			t.Errorf("mode %q: the request has %+v", mode, c.NetworkingConfig.EndpointsConfig)
		}
	}
}

// Docker's driver options name the interface and set its sysctls; what contradicts itself or has no effect is refused.
func TestDriverOpts(t *testing.T) {
	c := EndpointConfig{DriverOpts: map[string]string{OptIfName: "lan0"}}
	if spec, err := c.Spec("edge"); err != nil || spec.IfName != "lan0" {
		t.Errorf("got %q, %v", spec.IfName, err)
	}
	const two = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.ifname.ucast_solicit= 5"
	c = EndpointConfig{DriverOpts: map[string]string{OptSysctls: two}}
	if spec, err := c.Spec("edge"); err != nil || len(spec.Sysctls) != 2 ||
		DriverOpts(spec.Sysctls)[OptSysctls] != "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.IFNAME.ucast_solicit=5" {
		t.Errorf("got %+v, %v", spec.Sysctls, err)
	}
	for name, c := range map[string]EndpointConfig{
		"two names": {InterfaceName: "lan1", DriverOpts: map[string]string{OptIfName: "lan0"}},
		"no name":   {DriverOpts: map[string]string{OptIfName: ""}},
		"unknown":   {DriverOpts: map[string]string{"com.example.x": "1"}},
		"no sysctl": {DriverOpts: map[string]string{OptSysctls: ""}},
		"no value":  {DriverOpts: map[string]string{OptSysctls: "net.ipv4.conf.IFNAME.log_martians"}},
		"all":       {DriverOpts: map[string]string{OptSysctls: "net.ipv4.conf.all.log_martians=1"}},
		"of core":   {DriverOpts: map[string]string{OptSysctls: "net.core.IFNAME.IFNAME.somaxconn=1"}},
		"path":      {DriverOpts: map[string]string{OptSysctls: "net.ipv4.conf.IFNAME.../../all/log_martians=1"}},
		"twice":     {DriverOpts: map[string]string{OptSysctls: "net.ipv4.conf.IFNAME.a=1,net.ipv4.conf.ifname.a=2"}},
	} {
		if spec, err := c.Spec("edge"); err == nil {
			t.Errorf("%s: got %+v, want an error", name, spec)
		}
	}
}
