// SPDX-License-Identifier: Apache-2.0

package rtnl_test

import (
	"errors"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestCreateVeth(t *testing.T) {
	h := rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	l, err := h.CreateVeth(rtnl.Veth{Name: rtnl.EndpointDevice("0123456789abcdef"), PeerName: "eth0", PeerNS: ns, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != "fl0123456789ab" || !l.Ours() || l.Kind != "veth" || l.MTU != 1400 || l.Alias != "" {
		t.Errorf("unfinished device is %+v", l)
	}
	if _, err := h.CreateVeth(rtnl.Veth{Name: l.Name, PeerName: "eth1", PeerNS: ns, MTU: 1500}); !errors.Is(err, rtnl.ErrExists) {
		t.Errorf("same host name: %v, want ErrExists", err)
	}
	if _, err := h.CreateVeth(rtnl.Veth{Name: "flother", PeerName: "eth0", PeerNS: ns, MTU: 1500}); !errors.Is(err, rtnl.ErrExists) {
		t.Errorf("same name in the sandbox: %v, want ErrExists", err)
	}
	for range 2 {
		if err := h.DeleteLink(l.Index); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.LinkByName(l.Name); !errors.Is(err, rtnl.ErrNoDevice) {
		t.Errorf("after deletion: %v, want ErrNoDevice", err)
	}
}
