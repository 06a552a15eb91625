// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// testWatch returns a watch that runs until the test ends, and channels for the numbers that it
// reports and for lost messages.
func testWatch(t *testing.T) (w *Sandboxes, changed chan int32, lost chan bool) {
	t.Helper()
	w, err := NewSandboxes()
	if err != nil {
		t.Fatal(err)
	}
	changed, lost = make(chan int32), make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(number int32) {
			select {
			case changed <- number:
			case <-ctx.Done():
			}
		}, func() {
			select {
			case lost <- true:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, changed, lost
}

// untilQuiet returns the numbers received until there is none for the duration first initially,
// or while later.
func untilQuiet(changed <-chan int32, first, while time.Duration) (numbers []int32) {
	for wait := first; ; wait = while {
		select {
		case n := <-changed:
			numbers = append(numbers, n)
		case <-time.After(wait):
			return numbers
		}
	}
}

func TestSandboxes(t *testing.T) {
	h := rtnltest.New(t)
	host, err := rtnl.CurrentNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, ns := rtnltest.NetNS(t)
	_, unwatched := rtnltest.NetNS(t)
	l, err := h.CreateVeth(rtnl.Veth{Name: "fl0", PeerName: "eth0", PeerNS: ns, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp(l.Index); err != nil {
		t.Fatal(err)
	}
	d := configure.Device{
		HostIndex: l.Index, PeerIndex: l.PeerIndex, Fresh: true, MAC: model.MAC{2, 0x42, 0, 0, 0, 2}, MTU: 1400,
		Addrs:    []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
	if _, err := configure.Sandbox(ns, []configure.Device{d}); err != nil {
		t.Fatal(err)
	}
	if _, err := configure.Sandbox(unwatched, nil); err != nil {
		t.Fatal(err)
	}
	w, changed, _ := testWatch(t)
	number, err := w.Add(ns)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Add(ns); err != nil || again != number {
		t.Errorf("the number is %d, and %d, %v when added again", number, again, err)
	}

	untilQuiet(changed, 2*time.Second, 2*time.Second) // carrier changes settle within 1 s

	four, six := d.Gateways[0], d.Gateways[1]
	qdisc := func(args string) error {
		return rtnltest.Run("tc", strings.Fields("qdisc replace dev eth0 root "+args)...)
	}
	const limit = "handle 666c: tbf rate 1mbit burst 1mbit limit 128kb"
	down, mtu := false, 1300
	const quiet = 500 * time.Millisecond
	tests := []struct {
		name      string
		ns        *rtnl.NetNS
		change    func(c *rtnl.Conn) error
		wantEvent bool
	}{
		{"a unwatched's loopback down", unwatched, func(c *rtnl.Conn) error { return c.SetLink(1, rtnl.LinkChange{Up: &down}) }, false},
		{"a host's device changed", host, func(c *rtnl.Conn) error { return c.SetLink(1, rtnl.LinkChange{MTU: &mtu}) }, false},
		{"another route added", ns, func(*rtnl.Conn) error { return rtnltest.IP("route add 198.51.100.0/24 via " + four.String()) }, false},
		{"limit set", ns, func(*rtnl.Conn) error { return qdisc(limit) }, false},
		{"limit replaced by another qdisc", ns, func(*rtnl.Conn) error { return qdisc("handle 1: pfifo") }, true},
		{"other qdisc replaced", ns, func(*rtnl.Conn) error { return qdisc(limit) }, false},
		{"MTU changed", ns, func(c *rtnl.Conn) error { return c.SetLink(d.PeerIndex, rtnl.LinkChange{MTU: &mtu}) }, true},
		{"address removed", ns, func(c *rtnl.Conn) error {
			return c.DeleteAddr(d.PeerIndex, d.Addrs[1])
		}, true},
		{"IPv4 default route removed", ns, func(c *rtnl.Conn) error {
			return c.DeleteDefault(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: four})
		}, true},
		{"IPv6 default route removed", ns, func(c *rtnl.Conn) error {
			return c.DeleteDefault(rtnl.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: six})
		}, true},
		{"device down", ns, func(c *rtnl.Conn) error { return c.SetLink(d.PeerIndex, rtnl.LinkChange{Up: &down}) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rtnltest.In(t, tt.ns, tt.change)
			first := quiet
			if tt.wantEvent {
				first = 5 * time.Second // a program may have to wait for its turn
			}
			got := untilQuiet(changed, first, quiet)
			if len(got) > 0 != tt.wantEvent {
				t.Errorf("events from %v; want any: %t", got, tt.wantEvent)
			}
			if slices.ContainsFunc(got, func(n int32) bool { return n != number }) {
				t.Errorf("events from %v, want %d", got, number)
			}
		})
	}
}

// A watch that is too slow reports that it lost messages.
func TestSandboxesLose(t *testing.T) {
	rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	w, changed, lost := testWatch(t)
	number, err := w.Add(ns)
	if err != nil {
		t.Fatal(err)
	}
	rtnltest.In(t, ns, func(c *rtnl.Conn) error {
		for i := range 10000 {
			up := i%2 == 0
			if err := c.SetLink(1, rtnl.LinkChange{Up: &up}); err != nil {
				return err
			}
		}
		return nil
	})
	for received := 0; ; received++ {
		select {
		case <-lost:
			t.Logf("lost after %d", received)
			return
		case got := <-changed:
			if got != number {
				t.Fatalf("number %d, want %d", got, number)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing lost in %d messages", received)
		}
	}
}
