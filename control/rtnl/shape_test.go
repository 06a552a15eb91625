// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"math"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/control/model"
)

// An existing limit of any size is recognized, and not set twice.
func TestShape(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	l, _ := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	for _, tt := range []struct {
		limit model.Limit
		want  shaper
	}{
		{model.Limit{Rate: 20e6, Burst: 400e3}, shaper{shaperHandle, 2_500_000, 312_500, minQueue}},
		{model.Limit{Rate: 4e3, Burst: 12144}, shaper{shaperHandle, 500, 47_437_500, minQueue}},
		{model.Limit{Rate: 1e9, Burst: 1e6}, shaper{shaperHandle, 125_000_000, 15_625, 3_125_000}},
		{model.Limit{Rate: 1e12, Burst: 1e6}, shaper{shaperHandle, 125_000_000_000, 16, 3_125_000_000}}, // rounded up
		{model.Limit{Rate: 1e15, Burst: 8 * math.MaxUint32}, shaper{shaperHandle, 125_000_000_000_000, 537, math.MaxUint32}},
		// What passes in 4.3 s, the most that the kernel can count.
		{model.Limit{Rate: 1e6, Burst: math.MaxUint32}, shaper{shaperHandle, 125_000, uint32(maxTicks), minQueue}},
	} {
		for _, changes := range []bool{true, false} {
			have, err := h.Shapers()
			if err != nil {
				t.Fatal(err)
			}
			if changed, err := h.Shape(l.Index, tt.limit, have); err != nil || changed != changes {
				t.Errorf("%+v: changed %t, %v, want %t", tt.limit, changed, err, changes)
			}
		}
		if have, err := h.Shapers(); err != nil || have[l.Index] != tt.want {
			t.Errorf("%+v is %+v, %v, want %+v", tt.limit, have[l.Index], err, tt.want)
		}
	}
	if err := h.DeleteLink(l.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Shape(l.Index, model.Limit{Rate: 1e6, Burst: 1e6}, nil); !errors.Is(err, ErrNoDevice) {
		t.Errorf("on a deleted device: %v, want ErrNoDevice", err)
	}
}

// A limit replaces another program's qdisc; without a limit the qdisc is kept.
func TestShapeInside(t *testing.T) {
	h := testHandle(t)
	_, ns := testNetNS(t)
	_, d := testEndpoint(t, h, ns, endpointID, "eth0", 2)
	kind := func() (kind string) {
		in(t, ns, func(*conn) error {
			return withTC(func(tc *netlink.Handle) error {
				qs, err := tc.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(d.PeerIndex)}})
				for _, q := range qs {
					kind = q.Type()
				}
				return err
			})
		})
		return kind
	}
	configure := func(devices int) {
		t.Helper()
		ch, err := ConfigureSandbox(ns, []SandboxDevice{d})
		if err != nil || ch.Devices != devices {
			t.Errorf("%d devices changed, %v, want %d", ch.Devices, err, devices)
		}
	}
	configure(2) // with the loopback
	in(t, ns, func(*conn) error { return pfifo(d.PeerIndex) })
	configure(0)
	if got := kind(); got != "pfifo" {
		t.Errorf("without a limit the qdisc is %s, want pfifo", got)
	}
	d.Limit = model.Limit{Rate: 1e6, Burst: 1e6}
	configure(1)
	if got := kind(); got != "tbf" {
		t.Errorf("with a limit the qdisc is %s, want tbf", got)
	}
	configure(0)
}

// withTC calls f with a handle of the calling thread's namespace.
func withTC(f func(tc *netlink.Handle) error) error {
	tc, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer tc.Close()
	return f(tc)
}

// pfifo sets another program's root qdisc on a device.
func pfifo(index uint32) error {
	return withTC(func(tc *netlink.Handle) error {
		return tc.QdiscReplace(&netlink.GenericQdisc{QdiscType: "pfifo", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(index), Handle: 1 << 16, Parent: netlink.HANDLE_ROOT,
		}})
	})
}

// limit sets a limit on a device.
func limit(index uint32) error {
	return withTC(func(tc *netlink.Handle) error {
		_, err := shape(tc, index, model.Limit{Rate: 1e6, Burst: 1e6}, nil)
		return err
	})
}

func TestProbeShaping(t *testing.T) {
	if err := ProbeShaping(); err != nil {
		t.Error(err)
	}
}
