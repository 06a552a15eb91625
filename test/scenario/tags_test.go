// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// tags inserts VLAN tags into a frame, the outermost first: 802.1ad where the number is
// negative.
func tags(frame []byte, vids ...int) []byte {
	out := append([]byte{}, frame[:12]...)
	for _, v := range vids {
		proto := uint16(0x8100)
		if v < 0 {
			proto, v = 0x88a8, -v&0xfff
		}
		out = binary.BigEndian.AppendUint16(out, proto)
		out = binary.BigEndian.AppendUint16(out, uint16(v))
	}
	return append(out, frame[12:]...)
}

const outer0 = -0x1000 // VLAN 0 of 802.1ad

// nested lists tags that a receiver's kernel removes until it finds the packet.
func nested() [][]int { return [][]int{{0, 0}, {outer0, 0}, {0, outer0}, {0, 0, 0}, {0, 100}} }

// wantHello expects one datagram, and not a second one.
func wantHello(l *lab.Lab, c net.PacketConn, what string) {
	l.Helper()
	if got := receive(c); got != "hello" {
		l.Errorf("%s is not received: %q", what, got)
	}
	wantSilence(l, c, what+", a second time,")
}

func wantSilence(l *lab.Lab, c net.PacketConn, what string) {
	l.Helper()
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, from, err := c.ReadFrom(make([]byte, 100)); err == nil {
		l.Errorf("%s is received: %d bytes from %v", what, n, from)
	}
}

// neighbour returns the MAC that a sandbox has resolved for an address of its link.
func neighbour(l *lab.Lab, s *lab.Sandbox, addr string) string {
	l.Helper()
	l.Ping(s.Host, addr)
	var found []struct{ LLAddr string }
	if err := json.Unmarshal([]byte(l.Run(s.Host, "ip", "-json", "neigh", "show", addr).Output()), &found); err != nil || len(found) != 1 {
		l.Fatalf("%s has no neighbour %s: %v %v", s.Name, addr, found, err)
	}
	return found[0].LLAddr
}

// The receiver processes what follows the tags of a frame: the program must not check
// anything else. A Linux bridge forwards tags; see docs/isolation.md for why Fairlead does
// not.
func TestTaggedFrames(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web, other, closed := network(l, "web"), network(l, "other"), network(l, "closed", "--internal")
		a, b := l.Sandbox("anna", "--network", web, "-p", "7000:5000/udp"), l.Sandbox("ben", "--network", web)
		c, d := l.Sandbox("carl", "--network", other), l.Sandbox("dora", "--network", closed)
		l.Sysctl(l.Host, "ipv4/ip_forward", "1")
		families(t, l, func(l *lab.Lab, f lab.Family) {
			gwMAC := neighbour(l, a, l.Gateway(web, f))
			from := func(s *lab.Sandbox) netip.AddrPort { return netip.AddrPortFrom(lab.Address(s.IP(f)), 5000) }
			heardB, heardC, heardD := listenUDP(l, b.Host, "udp"+f.String(), ":5000"),
				listenUDP(l, c.Host, "udp"+f.String(), ":5000"), listenUDP(l, d.Host, "udp"+f.String(), ":5000")
			heardOut := listenUDP(l, l.Outside, "udp"+f.String(), ":5000")
			for _, conn := range []net.PacketConn{heardB, heardC, heardD, heardOut} {
				defer conn.Close()
			}
			// The receiver ignores a priority tag; the packet after it is checked.
			good := udpFrame(l, a.MAC, b.MAC, from(a), from(b))
			sendFrame(l, a.Host, tags(good, 0))
			wantHello(l, heardB, "a frame with a priority tag")
			spoofed := udpFrame(l, a.MAC, b.MAC, from(c), from(b))
			l.Dropped("spoofed_ip", 1, func() { sendFrame(l, a.Host, tags(spoofed, 0)) })
			l.Dropped("isolated", 1, func() {
				sendFrame(l, a.Host, tags(udpFrame(l, a.MAC, gwMAC, from(a), from(c)), 0))
			})
			for _, vids := range append(nested(), []int{100}, []int{-100}, []int{100, 0}) {
				l.Dropped("vlan", 5, func() {
					sendFrame(l, a.Host, tags(good, vids...))
					sendFrame(l, a.Host, tags(spoofed, vids...))
					sendFrame(l, a.Host, tags(udpFrame(l, a.MAC, gwMAC, from(a), from(c)), vids...))
					sendFrame(l, a.Host, tags(udpFrame(l, a.MAC, gwMAC, from(a), from(d)), vids...))
					outside := netip.AddrPortFrom(lab.Address(f.Of(lab.Outside4, lab.Outside6)), 5000)
					sendFrame(l, a.Host, tags(udpFrame(l, a.MAC, gwMAC, from(a), outside), vids...))
				})
			}
			wantSilence(l, heardB, "a tagged frame of a member")
			wantSilence(l, heardC, "a tagged frame of another network")
			wantSilence(l, heardD, "a tagged frame into an internal network")
			wantSilence(l, heardOut, "a tagged frame out of the host")
		})
		families(t, l, func(l *lab.Lab, f lab.Family) { taggedFromOutside(l, f, a, d) })
	})
}

// taggedFromOutside checks that tagged frames from an uplink's segment do not reach a
// sandbox. published has its port 5000 published as 7000.
func taggedFromOutside(l *lab.Lab, f lab.Family, published, internal *lab.Sandbox) {
	out, host := macOf(l, l.Outside), macOf(l, l.Host)
	src := netip.AddrPortFrom(lab.Address(f.Of(lab.Outside4, lab.Outside6)), 5001)
	port := netip.AddrPortFrom(lab.Address(f.Of(lab.Host4, lab.Host6)), 7000)
	heard, hidden := listenUDP(l, published.Host, "udp"+f.String(), ":5000"), listenUDP(l, internal.Host, "udp"+f.String(), ":5000")
	defer heard.Close()
	defer hidden.Close()
	send := func(to netip.AddrPort, vids ...int) {
		sendFrame(l, l.Outside, tags(udpFrame(l, out, host, src, to), vids...))
	}
	send(port, 0)
	wantHello(l, heard, "a frame with a priority tag for a published port")
	for _, s := range []*lab.Sandbox{published, internal} {
		to := netip.AddrPortFrom(lab.Address(s.IP(f)), 5000)
		l.Dropped("direct", 1, func() { send(to, 0) })
		l.Dropped("vlan", 5, func() {
			for _, vids := range nested() {
				send(to, vids...)
			}
		})
		send(to, 100) // the host does not have a device in that VLAN
		send(to, -100)
	}
	send(port, 100)
	send(port, -100)
	l.Dropped("vlan", 2, func() { send(port, 0, 0); send(port, 0, 100) })
	wantSilence(l, heard, "a tagged frame from outside")
	wantSilence(l, hidden, "a tagged frame from outside for an internal network")
}
