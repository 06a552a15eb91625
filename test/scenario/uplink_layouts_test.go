// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// uplinkLayout is a way to connect a host: a row of docs/uplinks.md.
type uplinkLayout struct {
	name  string
	setUp func(l *lab.Lab)
	// Addresses of the host, IPv4 and IPv6, and the outside addresses it reaches through
	// them.
	host, outside [][2]string
}

// card is eth0 with its own addresses, which also work in every layout that keeps some of
// them.
var card = uplinkLayout{host: [][2]string{{lab.Host4, lab.Host6}}, outside: [][2]string{{lab.Outside4, lab.Outside6}}}

// The second segment of a layout, behind the same cable.
const (
	segmentHost4, segmentHost6       = "198.18.0.1", "2001:db8:18::1"
	segmentOutside4, segmentOutside6 = "198.18.0.254", "2001:db8:18::fe"
)

// segment adds the second segment at a device of the host and one outside.
func segment(l *lab.Lab, device, outside string) {
	l.Helper()
	l.IP(l.Host, "addr add "+segmentHost4+"/24 dev "+device, "addr add "+segmentHost6+"/64 dev "+device+" nodad", "link set "+device+" up")
	l.IP(l.Outside, "addr add "+segmentOutside4+"/24 dev "+outside, "addr add "+segmentOutside6+"/64 dev "+outside+" nodad", "link set "+outside+" up")
}

// both returns a layout that serves the card and the second segment.
func both(name string, setUp func(l *lab.Lab)) uplinkLayout {
	return uplinkLayout{
		name: name, setUp: setUp,
		host:    [][2]string{card.host[0], {segmentHost4, segmentHost6}},
		outside: [][2]string{card.outside[0], {segmentOutside4, segmentOutside6}},
	}
}

// move moves the card's addresses and default routes to another device, which the card
// belongs to.
func move(l *lab.Lab, device string) {
	l.Helper()
	l.IP(l.Host, "addr flush dev eth0", "link set "+device+" up",
		"addr add "+lab.Host4+"/24 dev "+device, "addr add "+lab.Host6+"/64 dev "+device+" nodad",
		"route replace default via "+lab.Outside4, "route replace ::/0 via "+lab.Outside6)
}

func uplinkLayouts() []uplinkLayout {
	bridge := card
	bridge.name, bridge.setUp = "bridge that a host is in", func(l *lab.Lab) {
		// It contains only one end of a veth pair, as in a nested host, and one of another
		// guest.
		l.IP(l.Host, "link add br0 type bridge", "link set eth0 master br0",
			"link add guest0 type veth peer name guest1", "link set guest0 master br0 up")
		move(l, "br0")
	}
	return []uplinkLayout{
		bridge,
		both("macvlan over a card", func(l *lab.Lab) {
			l.IP(l.Host, "link add mac0 link eth0 type macvlan mode bridge")
			segment(l, "mac0", "eth0")
		}),
		both("macvlan over a bridge over a card", func(l *lab.Lab) {
			l.IP(l.Host, "link add br0 type bridge", "link set eth0 master br0")
			move(l, "br0")
			l.IP(l.Host, "link add mac0 link br0 type macvlan mode bridge")
			segment(l, "mac0", "eth0")
		}),
		both("two subnets on one card", func(l *lab.Lab) { segment(l, "eth0", "eth0") }),
		{
			name: "addresses on the loopback device", // a host that uses BGP
			setUp: func(l *lab.Lab) {
				l.IP(l.Host, "addr flush dev eth0 scope global",
					"addr add "+segmentHost4+"/32 dev lo", "addr add "+segmentHost6+"/128 dev lo nodad",
					"addr add fe80::1/64 dev eth0 nodad",
					"route replace default src "+segmentHost4+" via inet6 fe80::fe dev eth0",
					"route replace ::/0 src "+segmentHost6+" via fe80::fe dev eth0")
				l.IP(l.Outside, "addr add fe80::fe/64 dev eth0 nodad",
					"route add "+segmentHost4+" src "+lab.Internet4+" via inet6 fe80::1 dev eth0",
					"route add "+segmentHost6+" src "+lab.Internet6+" via fe80::1 dev eth0")
			},
			host:    [][2]string{{segmentHost4, segmentHost6}},
			outside: [][2]string{{lab.Internet4, lab.Internet6}},
		},
		{
			name: "a gateway outside of the subnet", // as with rented servers
			setUp: func(l *lab.Lab) {
				l.IP(l.Host, "addr flush dev eth0 scope global",
					"addr add "+segmentHost4+"/32 dev eth0", "addr add "+segmentHost6+"/128 dev eth0 nodad",
					"route replace default via "+lab.Outside4+" dev eth0 onlink", "route replace ::/0 via fe80::fe dev eth0")
				l.IP(l.Outside, "addr add fe80::fe/64 dev eth0 nodad",
					"route add "+segmentHost4+" dev eth0 src "+lab.Internet4, "route add "+segmentHost6+" dev eth0 src "+lab.Internet6)
			},
			host:    [][2]string{{segmentHost4, segmentHost6}},
			outside: [][2]string{{lab.Internet4, lab.Internet6}},
		},
	}
}

// Published ports answer at every address of every layout, sandboxes use the address of the
// uplink that their packets leave by, and the host's own programs work.
func TestUplinkLayouts(t *testing.T) {
	t.Parallel()
	for _, layout := range uplinkLayouts() {
		t.Run(layout.name, func(t *testing.T) {
			t.Parallel()
			modes(t, lab.Config{NoDaemon: true}, func(t *testing.T, l *lab.Lab) {
				layout.setUp(l)
				l.StartDaemon()
				serves(t, l, layout)
			})
		})
	}
}

// serves checks everything an uplink is used for, with each address of a layout.
func serves(t *testing.T, l *lab.Lab, layout uplinkLayout) {
	web := network(l, "web")
	a := l.Sandbox("anna", "--network", web)
	b := l.Sandbox("ben", "--network", web, "-p", "7070:7", "-p", "7070:7/udp")
	l.Echo(b.Host, 7)
	l.Echo(l.Outside, 7)
	l.Echo(l.Host, 9)
	l.UDP(l.Outside, "outside", 53)
	families(t, l, func(l *lab.Lab, f lab.Family) {
		for i := range layout.host {
			host, outside := f.Of(layout.host[i][0], layout.host[i][1]), f.Of(layout.outside[i][0], layout.outside[i][1])
			for _, network := range []string{"tcp", "udp"} {
				for what, err := range map[string]error{
					"published":     l.Reach(lab.Patient, l.Outside, network, host, 7070),
					"masqueraded":   l.Reach(lab.Patient, a.Host, network, outside, 7),
					"from the host": l.Reach(lab.Patient, l.Host, network, outside, 7),
					"to the host":   l.Reach(lab.Patient, l.Outside, network, host, 9),
				} {
					if err != nil {
						l.Errorf("%s, %s: %v", what, network, err)
					}
				}
			}
			newTalk(l, a.Host, outside, 53).sees(l, host)
		}
	})
}

// Problems of uplinks are reported where an operator looks, for as long as they exist.
func TestUplinkTroubles(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	say := func(want string) {
		l.Helper()
		status, doctor := l.Fairlead("status"), l.Fairlead("doctor")
		if want == "" && (strings.Contains(status, "trouble") || strings.Contains(doctor, "\nUplinks\n")) {
			l.Errorf("problem without reason: %s\n%s", status, doctor)
		}
		if !strings.Contains(status, want) || !strings.Contains(doctor, want) {
			l.Errorf("want %q in both: %s\n%s", want, status, doctor)
		}
	}
	say("")
	l.IP(l.Host, "link set eth0 down")
	say("eth0: it is down")
	l.IP(l.Host, "link set eth0 up", "xfrm policy add dir out src 0.0.0.0/0 dst 203.0.113.0/24 action block")
	say("the host has IPsec policies")
	l.IP(l.Host, "xfrm policy flush")
	say("")
}
