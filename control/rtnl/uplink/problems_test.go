// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestProblems(t *testing.T) {
	links := []rtnl.Link{
		{Index: 1, Name: "lo", Up: true, Loopback: true, Type: unix.ARPHRD_LOOPBACK},
		{Index: 2, Name: "eth0", Up: true, Type: unix.ARPHRD_ETHER},
		{Index: 3, Name: "eth1", Type: unix.ARPHRD_ETHER},
		{Index: 4, Name: "wg0", Up: true, Type: unix.ARPHRD_NONE},
		{Index: 5, Name: "br0", Up: true, Kind: "bridge", Type: unix.ARPHRD_ETHER},
		{Index: 6, Name: "eth2", Up: true, Master: 5, Type: unix.ARPHRD_ETHER},
	}
	at := func(device uint32) rtnl.Addr {
		return rtnl.Addr{IfIndex: device, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(device)}), 24)}
	}
	for name, tt := range map[string]struct {
		addrs     []rtnl.Addr
		rules     Rules
		encrypted bool
		want      []string // prefixes
	}{
		"none":               {addrs: []rtnl.Addr{at(2)}, rules: Rules{Default: []uint32{2, 2}}},
		"down":               {addrs: []rtnl.Addr{at(2), at(3)}, want: []string{"eth1: it is down"}},
		"no Ethernet":        {addrs: []rtnl.Addr{at(2), at(4)}, rules: Rules{Default: []uint32{4}}, want: []string{"wg0: its packets have no Ethernet header"}},
		"not named":          {addrs: []rtnl.Addr{at(2), at(5)}, rules: Rules{Default: []uint32{2}, Pinned: []string{"br0"}}, want: []string{"eth0: the default route uses it"}},
		"not there":          {rules: Rules{Pinned: []string{"eth0", "eth9"}}, want: []string{"eth9: no such device"}},
		"a port's addresses": {addrs: []rtnl.Addr{at(6)}, want: []string{"eth2: it is a port"}},
		"no uplink":          {want: []string{"no uplink found"}},
		"IPsec":              {addrs: []rtnl.Addr{at(2)}, encrypted: true, want: []string{"the host has IPsec policies"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Problems(links, tt.addrs, tt.rules, tt.encrypted)
			bad := len(got) != len(tt.want)
			for i := 0; !bad && i < len(got); i++ {
				bad = !strings.HasPrefix(got[i], tt.want[i])
			}
			if bad {
				t.Errorf("problems %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEncrypts(t *testing.T) {
	h := rtnltest.New(t)
	check := func(want bool) {
		t.Helper()
		if got, err := encrypts(h); err != nil || got != want {
			t.Errorf("IPsec policies: %t, %v; want %t", got, err, want)
		}
	}
	check(false)
	dst, err := netlink.ParseIPNet("0.0.0.0/0")
	if err != nil {
		t.Fatal(err)
	}
	policy := &netlink.XfrmPolicy{Dst: dst, Src: dst, Dir: netlink.XFRM_DIR_IN, Action: netlink.XFRM_POLICY_BLOCK}
	add := func() {
		t.Helper()
		if err := h.Do(func() error { return netlink.XfrmPolicyAdd(policy) }); err != nil {
			t.Fatal(err)
		}
	}
	add()
	check(false) // the host's stack handles ingress
	policy.Dir = netlink.XFRM_DIR_OUT
	add()
	check(true)
}
