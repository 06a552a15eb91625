// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"testing"
)

// A port is served at host addresses of both families, whichever family the endpoint has, unless
// there is no gateway address to replace the client's address.
func TestBackend(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd00::2/64")
	gw4 := Subnet{Prefix: v4.Masked(), Gateway: netip.MustParseAddr("10.1.0.1")}
	gw6 := Subnet{Prefix: v6.Masked(), Gateway: netip.MustParseAddr("fd00::1")}
	for _, tt := range []struct {
		name    string
		subnets []Subnet
		ep      Endpoint
		want    map[string]string // by host address; "": not served
	}{
		{"both", []Subnet{gw4, gw6}, Endpoint{IPv4: v4, IPv6: v6}, map[string]string{
			"0.0.0.0": "10.1.0.2", "::": "fd00::2", "127.0.0.1": "10.1.0.2", "::1": "fd00::2"}},
		{"IPv4", []Subnet{gw4}, Endpoint{IPv4: v4}, map[string]string{
			"0.0.0.0": "10.1.0.2", "::": "10.1.0.2", "127.0.0.1": "10.1.0.2", "::1": "10.1.0.2", "2001:db8::1": "10.1.0.2"}},
		{"IPv6", []Subnet{gw6}, Endpoint{IPv6: v6}, map[string]string{
			"0.0.0.0": "fd00::2", "::": "fd00::2", "127.0.0.1": "", "::1": "fd00::2", "192.0.2.1": "fd00::2"}},
		{"an endpoint whose IPv6 address was removed", []Subnet{gw4, gw6}, Endpoint{IPv4: v4}, map[string]string{"::": "10.1.0.2"}},
		{"no gateway", []Subnet{{Prefix: v4.Masked()}}, Endpoint{IPv4: v4}, map[string]string{"0.0.0.0": "10.1.0.2", "::": ""}},
	} {
		n := &Network{Subnets: tt.subnets}
		for host, want := range tt.want {
			got := ""
			if a := n.Backend(&tt.ep, netip.MustParseAddr(host)); a.IsValid() {
				got = a.String()
			}
			if got != want {
				t.Errorf("%s: a port published at %s is served by %q, want %q", tt.name, host, got, want)
			}
		}
	}
}
