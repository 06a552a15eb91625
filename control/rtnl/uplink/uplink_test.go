// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

func TestFind(t *testing.T) {
	links := []rtnl.Link{
		{Index: 1, Name: "lo", Up: true, Loopback: true, Type: unix.ARPHRD_LOOPBACK},
		{Index: 2, Name: "eth0", Up: true, Type: unix.ARPHRD_ETHER},
		{Index: 3, Name: "eth1", Type: unix.ARPHRD_ETHER},
		{Index: 4, Name: "wg0", Up: true, Type: unix.ARPHRD_NONE},
		{Index: 5, Name: "spare", Up: true, Type: unix.ARPHRD_ETHER},
		{Index: 7, Name: "eth2", Up: true, Type: unix.ARPHRD_ETHER},
		{Index: 6, Name: "flgab", Up: true, Type: unix.ARPHRD_ETHER, Alias: "fairlead:gateway:ab"},
		{Index: 8, Name: "docker0", Up: true, Type: unix.ARPHRD_ETHER, Kind: "bridge"},
		{Index: 9, Name: "veth1", Up: true, Type: unix.ARPHRD_ETHER, Kind: "veth", Master: 8},
		{Index: 10, Name: "vnet0", Up: true, Type: unix.ARPHRD_ETHER, Kind: "tun", Master: 8},
		{Index: 11, Name: "br0", Up: true, Type: unix.ARPHRD_ETHER, Kind: "bridge"},
		{Index: 12, Name: "eth3", Up: true, Type: unix.ARPHRD_ETHER, Master: 11},
	}
	at := func(dev uint32, p string, flags uint32, scope uint8) rtnl.Addr {
		return rtnl.Addr{IfIndex: dev, Prefix: netip.MustParsePrefix(p), Flags: flags, Scope: scope}
	}
	addrs := []rtnl.Addr{
		at(1, "127.0.0.1/8", 0, unix.RT_SCOPE_HOST),
		at(2, "192.0.2.10/24", 0, 0),
		at(2, "192.0.2.11/24", unix.IFA_F_SECONDARY, 0),
		at(2, "fe80::1/64", 0, unix.RT_SCOPE_LINK),
		at(2, "fd00::1/64", 0, 0),
		at(2, "2001:db8::5/64", unix.IFA_F_SECONDARY, 0), // temporary
		at(2, "2001:db8::6/64", unix.IFA_F_TENTATIVE, 0),
		at(2, "2001:db8::7/64", unix.IFA_F_DEPRECATED, 0),
		at(2, "2001:db8::8/64", 0, 0),
		at(3, "198.51.100.1/24", 0, 0),
		at(5, "fe80::5/64", 0, unix.RT_SCOPE_LINK),
		at(6, "172.17.0.1/16", 0, 0),
	}
	eth0 := Uplink{IfIndex: 2, Name: "eth0", IPv4: netip.MustParseAddr("192.0.2.10"), IPv6: netip.MustParseAddr("2001:db8::8")}
	eth1 := Uplink{IfIndex: 3, Name: "eth1", IPv4: netip.MustParseAddr("198.51.100.1"), IPv6: eth0.IPv6} // down
	eth2 := Uplink{IfIndex: 7, Name: "eth2", IPv4: eth0.IPv4, IPv6: eth0.IPv6}
	docker0 := Uplink{IfIndex: 8, Name: "docker0", IPv4: eth0.IPv4, IPv6: eth0.IPv6, Stack: true}
	br0 := Uplink{IfIndex: 11, Name: "br0", IPv4: eth0.IPv4, IPv6: eth0.IPv6}
	kept := Uplink{IfIndex: 5, Name: "spare", IPv4: eth0.IPv4, IPv6: eth0.IPv6, Kept: true}
	nested := docker0
	nested.Stack = false
	tests := map[string]struct {
		rules Rules
		want  []Uplink
	}{
		"by address, also down":      {Rules{}, []Uplink{eth0, eth1}},
		"by route, unnumbered":       {Rules{Routed: map[uint32]bool{7: true}}, []Uplink{eth0, eth1, eth2}},
		"pinned":                     {Rules{Pinned: []string{"eth2", "eth9"}}, []Uplink{eth2}},
		"pinned and down":            {Rules{Pinned: []string{"eth1"}}, []Uplink{eth1}},
		"no Ethernet header":         {Rules{Routed: map[uint32]bool{4: true}, Pinned: []string{"wg0", "eth0"}}, []Uplink{eth0}},
		"bridges":                    {Rules{Routed: map[uint32]bool{8: true, 11: true}}, []Uplink{eth0, eth1, docker0, br0}},
		"bridge, pinned":             {Rules{Pinned: []string{"docker0"}}, []Uplink{nested}},
		"bridge that the host is in": {Rules{Routed: map[uint32]bool{8: true}, Default: []uint32{8}}, []Uplink{eth0, eth1, nested}},
		"a moment ago":               {Rules{Kept: map[string]bool{"spare": true, "eth0": true}}, []Uplink{eth0, eth1, kept}},
		"a moment ago, a port now":   {Rules{Kept: map[string]bool{"eth3": true}}, []Uplink{eth0, eth1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Find(links, addrs, tt.rules)
			slices.SortFunc(got, func(a, b Uplink) int { return int(a.IfIndex) - int(b.IfIndex) })
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("uplinks (-want +got):\n%s", diff)
			}
		})
	}
}

// The parent of a network whose members are on its link is an uplink, also without an address or beside pinned ones.
func TestParents(t *testing.T) {
	links := []rtnl.Link{
		{Index: 2, Name: "eth0", Up: true, Type: unix.ARPHRD_ETHER, PeerNSID: -1},
		{Index: 3, Name: "eth1", Up: true, Type: unix.ARPHRD_ETHER, PeerNSID: -1},
		{Index: 4, Name: "eth2", Up: true, Type: unix.ARPHRD_ETHER, PeerNSID: -1},
	}
	addrs := []rtnl.Addr{{IfIndex: 2, Prefix: netip.MustParsePrefix("192.0.2.2/24")}}
	for _, pinned := range [][]string{nil, {"eth0"}} {
		got := make(map[string]uint32)
		for _, u := range Find(links, addrs, Rules{Pinned: pinned, Parents: map[string]uint32{"eth1": 7}}) {
			got[u.Name] = u.LAN
		}
		if diff := cmp.Diff(map[string]uint32{"eth0": 0, "eth1": 7}, got); diff != "" {
			t.Errorf("pinned %v: networks by uplink (-want +got):\n%s", pinned, diff)
		}
	}
}

// What leaves by stacked uplinks is translated by the uppermost only.
func TestStackedUplinks(t *testing.T) {
	links := []rtnl.Link{
		{Index: 2, Name: "eth0", PeerNSID: -1},
		{Index: 3, Name: "eth1", PeerNSID: -1, Master: 4},
		{Index: 4, Name: "bond0", Kind: "bond", PeerNSID: -1, Master: 5},
		{Index: 5, Name: "br0", Kind: "bridge", PeerNSID: -1},
		{Index: 6, Name: "mac0", Kind: "macvlan", PeerIndex: 2, PeerNSID: -1},
		{Index: 7, Name: "mac0.7", Kind: "vlan", PeerIndex: 6, PeerNSID: -1},
		{Index: 8, Name: "ip0", Kind: "ipvlan", PeerIndex: 2, PeerNSID: -1},
		{Index: 9, Name: "mac1", Kind: "macvlan", PeerIndex: 5, PeerNSID: -1},
		{Index: 10, Name: "ip1", Kind: "ipvlan", PeerIndex: 2, PeerNSID: 3}, // on another namespace's device
		{Index: 11, Name: "veth0", Kind: "veth", PeerIndex: 2, PeerNSID: -1},
	}
	var addrs []rtnl.Addr
	for i := range links {
		l := &links[i]
		l.Up, l.Type = true, unix.ARPHRD_ETHER
		addrs = append(addrs, rtnl.Addr{IfIndex: l.Index, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(l.Index)}), 24)})
	}
	got := make(map[string][2]int)
	for _, u := range Find(links, addrs, Rules{}) {
		below := 0
		if u.ReceivesBelow {
			below = 1
		}
		got[u.Name] = [2]int{u.Below, below}
	}
	want := map[string][2]int{
		"eth0": {}, "eth1": {}, "bond0": {1, 0}, "br0": {2, 0}, "mac0": {1, 0}, "mac0.7": {},
		"ip0": {1, 1}, "mac1": {3, 0}, "ip1": {}, "veth0": {},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("uplinks below, and whether they receive (-want +got):\n%s", diff)
	}
}
