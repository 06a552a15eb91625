// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"testing"
)

// A port is served at host addresses of both families, whichever family the endpoint has. It is not if no gateway
// address can replace the client's, nor in a family that is routed, where the endpoint's own address has it.
func TestBackend(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd00::2/64")
	gw4 := Subnet{Prefix: v4.Masked(), Gateway: netip.MustParseAddr("10.1.0.1")}
	gw6 := Subnet{Prefix: v6.Masked(), Gateway: netip.MustParseAddr("fd00::1")}
	both, routed := Endpoint{IPv4: v4, IPv6: v6}, GatewayRouted
	for _, tt := range []struct {
		name         string
		subnets      []Subnet
		ep           Endpoint
		mode4, mode6 string
		want         map[string]string // by host address; "": not served
		direct       map[string]string
		onHost       map[string]string // by requested address; "": all
	}{
		{"both", []Subnet{gw4, gw6}, both, "", "", map[string]string{
			"0.0.0.0": "10.1.0.2", "::": "fd00::2", "127.0.0.1": "10.1.0.2", "::1": "fd00::2"},
			map[string]string{"0.0.0.0": "", "::": ""}, map[string]string{"": "all", "0.0.0.0": "0.0.0.0", "::1": "::1"}},
		{"IPv4", []Subnet{gw4}, Endpoint{IPv4: v4}, "", "", map[string]string{
			"0.0.0.0": "10.1.0.2", "::": "10.1.0.2", "127.0.0.1": "10.1.0.2", "::1": "10.1.0.2", "2001:db8::1": "10.1.0.2"}, nil, nil},
		{"IPv6", []Subnet{gw6}, Endpoint{IPv6: v6}, "", "", map[string]string{
			"0.0.0.0": "fd00::2", "::": "fd00::2", "127.0.0.1": "", "::1": "fd00::2", "192.0.2.1": "fd00::2"}, nil, nil},
		{"an endpoint whose IPv6 address was removed", []Subnet{gw4, gw6}, Endpoint{IPv4: v4}, "", "", map[string]string{"::": "10.1.0.2"}, nil, nil},
		{"no gateway", []Subnet{{Prefix: v4.Masked()}}, Endpoint{IPv4: v4}, "", "", map[string]string{"0.0.0.0": "10.1.0.2", "::": ""}, nil, nil},
		{"IPv6 is routed", []Subnet{gw4, gw6}, both, "", routed,
			map[string]string{"0.0.0.0": "10.1.0.2", "127.0.0.1": "10.1.0.2", "::": "", "::1": ""},
			map[string]string{"0.0.0.0": "", "::": "fd00::2", "2001:db8::1": "fd00::2"}, map[string]string{"": "0.0.0.0", "127.0.0.1": "127.0.0.1", "::": ""}},
		{"IPv4 is routed", []Subnet{gw4, gw6}, both, routed, GatewayUnprotected, map[string]string{"0.0.0.0": "", "::": "fd00::2"},
			map[string]string{"0.0.0.0": "10.1.0.2", "::": ""}, map[string]string{"": "::", "0.0.0.0": "", "::1": "::1"}},
		{"both are routed", []Subnet{gw4, gw6}, both, routed, routed, map[string]string{"0.0.0.0": "", "::": ""},
			map[string]string{"0.0.0.0": "10.1.0.2", "::": "fd00::2"}, map[string]string{"": "", "0.0.0.0": "", "::": ""}},
		{"IPv4 alone is routed", []Subnet{gw4}, Endpoint{IPv4: v4}, routed, "", map[string]string{"0.0.0.0": "", "::": ""},
			map[string]string{"0.0.0.0": "10.1.0.2", "::": ""}, map[string]string{"": "", "0.0.0.0": "", "::": ""}},
	} {
		n := &Network{Subnets: tt.subnets, Options: map[string]string{OptGateMode4: tt.mode4, OptGateMode6: tt.mode6}}
		for host, want := range tt.want {
			if got := AddrText(n.Backend(&tt.ep, netip.MustParseAddr(host))); got != want {
				t.Errorf("%s: a port published at %s is served by %q, want %q", tt.name, host, got, want)
			}
		}
		for host, want := range tt.direct {
			at := netip.MustParseAddr(host)
			opened := n.Openings(&tt.ep, PortBinding{HostIP: at, HostPort: 8080, Port: 80})
			translated := Opening{Host: at, Port: 8080, Backend: n.Backend(&tt.ep, at)}
			switch {
			case want != "" && (len(opened) != 1 || opened[0] != Opening{Host: netip.MustParseAddr(want), Port: 80, Backend: netip.MustParseAddr(want), Direct: true}),
				want == "" && translated.Backend.IsValid() != (len(opened) == 1 && opened[0] == translated),
				n.Serves(&tt.ep, at) != (len(opened) > 0):
				t.Errorf("%s: a port published at %s opens %+v, want %q", tt.name, host, opened, want)
			}
			if n.Internal = true; len(n.Openings(&tt.ep, PortBinding{HostIP: at})) != 0 {
				t.Errorf("%s: an internal network publishes at %s", tt.name, host)
			}
			n.Internal = false
		}
		for host, want := range tt.onHost {
			var b PortBinding
			if host != "" {
				b.HostIP = netip.MustParseAddr(host)
			}
			got := ""
			if b, ok := n.OnHost(b); ok {
				if got = AddrText(b.HostIP); got == "" {
					got = "all"
				}
			}
			if got != want {
				t.Errorf("%s: a port published at %q is the host's at %q, want %q", tt.name, host, got, want)
			}
		}
	}
}
