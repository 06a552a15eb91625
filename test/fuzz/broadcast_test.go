// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// TestBroadcastToHost sends datagrams for a service of the host, at the address of its uplink, to all or a group of a network (S7 of
// docs/faults.md). The control shows that a host's kernel delivers them, unless a rule drops all that is from an internal network.
func TestBroadcastToHost(t *testing.T) {
	f := newFuzzer(t)
	for _, family := range lab.Families() {
		group := mac{0x01, 0, 0x5e, 0, 0, 0xfb}
		if family == lab.IPv6 {
			group = mac{0x33, 0x33, 0, 0, 0, 1}
		}
		for _, tc := range []struct {
			name, from   string
			dmac         mac // zero: the gateway's
			ours, theirs bool
		}{
			{"broadcast, from an internal network", "c1", mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false, false},
			{"to a group, from an internal network", "c1", group, false, false},
			{"broadcast, from a network with a way out", "a1", mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false, true},
			{"to a group, from a network with a way out", "a1", group, false, true},
			{"honest, from a network with a way out", "a1", mac{}, true, true},
		} {
			for _, w := range f.twins() {
				want := tc.ours
				if w.judge {
					want = tc.theirs
				}
				if got := f.hears(w, tc.from, tc.dmac, family); got != want {
					t.Errorf("IPv%v, %s: with %s the host's service gets it: %v, want %v", family, tc.name, w.name, got, want)
				}
			}
		}
	}
}

// hears reports whether a service of the host gets a datagram that a node sends to a MAC.
func (f *fuzzer) hears(w *twin, from string, dmac mac, family lab.Family) bool {
	f.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(family.Of(lab.Host4, lab.Host6)), 9999)
	var service *net.UDPConn
	check(f.Lab, w.host.Do(func() (err error) {
		service, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	defer service.Close()
	n := nodeOf(from)
	p := &packet{
		smac: n.mac, dmac: dmac, src: n.addr(family), dst: at.Addr(), ttl: 64,
		proto: unix.IPPROTO_UDP, sport: 4000, dport: at.Port(), payload: []byte(fmt.Sprint(from, dmac)),
	}
	if dmac == (mac{}) {
		p.dmac = w.hop[from]
	}
	check(f.Lab, w.ports[from].send(p.frame(p.ip(p.layer4()))))
	check(f.Lab, f.barrier.wait())
	check(f.Lab, service.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	b := make([]byte, 128)
	size, err := service.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		f.Fatal(err)
	}
	return err == nil && string(b[:size]) == string(p.payload)
}
