// SPDX-License-Identifier: Apache-2.0

// Package configure configures devices: an endpoint's ends in the sandbox and on the host, and host
// ports. Each function reads first and changes only what differs, so the same call creates, checks
// and repairs.
package configure

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/stacked"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
)

// Device is the wanted configuration of an endpoint's end in the sandbox.
type Device struct {
	HostIndex uint32          // of the other end; with PeerIndex it identifies the pair
	PeerIndex uint32          // of this end, in the sandbox
	On        *stacked.Device // nil if it is the end of a pair; of others, the kind, the parent and the mode
	Alias     string
	Fresh     bool           // not configured yet
	MAC       model.MAC      // zero: as the kernel chose it
	MTU       int            // 0: as the kernel chose it
	Limit     model.Limit    // of egress traffic
	Settings  []model.Sysctl // that the user chose
	Addrs     []netip.Prefix
	Lease     *Lease       // nil: the IPv4 address does not end
	Gateways  []netip.Addr // of the default routes that use this device; unspecified: without one
}

// Lease is an IPv4 address that ends; without an address, the device has none that does.
type Lease struct {
	Address netip.Prefix
	Until   time.Time
}

// MissingError reports which device of a sandbox does not exist. It is an ErrNoDevice.
type MissingError struct {
	Alias string // that it should have
}

// Error names the device.
func (e *MissingError) Error() string {
	return fmt.Sprintf("the device %s is not in the sandbox", e.Alias)
}

// Unwrap makes it an ErrNoDevice.
func (e *MissingError) Unwrap() error { return rtnl.ErrNoDevice }

// Sandbox configures a sandbox's namespace: the loopback up, the devices configured and
// up, the default routes set. It keeps what is already right and what is not Fairlead's: other
// devices, addresses and routes, and, once a device was configured, whether it has IPv6. It
// returns a MissingError if a device does not exist.
//
// Macvlan and ipvlan devices of Fairlead that are neither among the devices nor have one of the kept aliases are
// leftovers, which no program on the host can see, and are deleted.
//
// It reads first and then changes what differs, so the same call creates, checks and repairs.
func Sandbox(ns *rtnl.NetNS, devs []Device, keep ...string) (Changes, error) {
	s := sandbox{keep: keep}
	err := ns.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		s.conn = c
		return s.configure(devs)
	})
	if err != nil {
		return s.changes, fmt.Errorf("configure sandbox: %w", err)
	}
	return s.changes, nil
}

// sandbox is one run of Sandbox, on a thread in the namespace.
type sandbox struct {
	conn    *rtnl.Conn
	keep    []string // aliases
	addrs   map[uint32][]rtnl.Addr
	added   []netip.Prefix
	tc      *netlink.Handle // nil if nothing is or was limited, and nothing on top of a parent
	shapers tc.Shapers
	changes Changes
}

func (s *sandbox) configure(devs []Device) error {
	// In this order: the kernel notes that IPv6 is disabled before it removes addresses.
	addrs, err := s.conn.Addrs()
	if err != nil {
		return err
	}
	links, err := s.conn.Links()
	if err != nil {
		return err
	}
	s.addrs = make(map[uint32][]rtnl.Addr, len(links))
	for _, a := range addrs {
		s.addrs[a.IfIndex] = append(s.addrs[a.IfIndex], a)
	}
	limited := func(l rtnl.Link) bool { return l.Qdisc == tc.Kind }
	if slices.ContainsFunc(devs, func(d Device) bool { return !d.Limit.IsZero() || d.On != nil }) || slices.ContainsFunc(links, stacked.Leftover) || slices.ContainsFunc(links, limited) {
		if err := s.openTC(); err != nil {
			return err
		}
		defer s.tc.Close()
	}
	errs := []error{s.sweep(links, devs)}
	for _, l := range links {
		if l.Loopback {
			errs = append(errs, s.loopback(l))
		}
	}
	devs = slices.Clone(devs)
	for i := range devs {
		d := &devs[i]
		k := slices.IndexFunc(links, d.is)
		if k < 0 {
			errs = append(errs, &MissingError{Alias: d.Alias})
			continue
		}
		errs = append(errs, s.device(links[k], d))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(s.defaultRoute(devs, unix.AF_INET), s.defaultRoute(devs, unix.AF_INET6), s.conn.AwaitAddrs(s.added))
}

// sweep deletes the leftovers among macvlan and ipvlan devices.
func (s *sandbox) sweep(links []rtnl.Link, devs []Device) error {
	for _, l := range links {
		if !stacked.Leftover(l) || slices.Contains(s.keep, l.Alias) || slices.ContainsFunc(devs, func(d Device) bool { return d.is(l) }) {
			continue
		}
		if err := stacked.Remove(s.tc, l.Index); err != nil {
			return err
		}
	}
	return nil
}

// openTC reads how the devices are limited.
func (s *sandbox) openTC() (err error) {
	if s.tc, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if s.shapers, err = tc.ListShapers(s.tc); err != nil {
		s.tc.Close()
	}
	return err
}

// is reports whether l is this device. The indices could match by chance after the device was
// moved away, so the alias is compared too.
func (d Device) is(l rtnl.Link) bool {
	kind, other := "veth", d.HostIndex
	if d.On != nil {
		kind, other = d.On.Kind, d.On.Parent
	}
	return l.Index == d.PeerIndex && l.PeerIndex == other && l.Kind == kind &&
		(l.Alias == "" || l.Alias == d.Alias)
}

func (s *sandbox) loopback(l rtnl.Link) error {
	if !l.Up {
		// The kernel then adds 127.0.0.1 and ::1 itself.
		s.changes.Devices++
		up := true
		return s.conn.SetLink(l.Index, rtnl.LinkChange{Up: &up})
	}
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}
	if l.Conf.DisableIPv6 == 0 {
		want = append(want, netip.MustParsePrefix("::1/128"))
	}
	_, err := s.addAddrs(l.Index, want)
	return err
}

// device configures a device. It removes from d what the namespace's owner disabled.
func (s *sandbox) device(l rtnl.Link, d *Device) error {
	if err := s.sysctls(l, d); err != nil {
		return err
	}
	if !d.Limit.IsZero() || l.Qdisc == tc.Kind {
		changed, err := tc.Shape(s.tc, l.Index, d.Limit, s.shapers)
		if changed {
			s.changes.Devices++
		}
		if err != nil {
			return err
		}
	}
	if d.Lease != nil {
		changed, err := stacked.SetLease(s.tc, l.Index, d.Lease.Address, time.Until(d.Lease.Until))
		s.changes.Addresses += changed
		if err != nil {
			return err
		}
	}
	if d.On != nil {
		if err := s.onParent(l, d); err != nil {
			return err
		}
	}
	changed, err := adjust(s.conn, l, d.Alias, d.MAC, d.MTU)
	if changed {
		s.changes.Devices++
	}
	if err != nil {
		return err
	}
	off, err := s.addAddrs(l.Index, d.Addrs)
	if off {
		d.Gateways = slices.DeleteFunc(slices.Clone(d.Gateways), netip.Addr.Is6)
	}
	return err
}

// onParent restores the mode of a device on top of a parent. While the device is down it gets its addresses, so that the
// kernel announces them to the link once it is up: something else may have had them a moment ago.
func (s *sandbox) onParent(l rtnl.Link, d *Device) error {
	changed, err := d.On.Restore(s.tc, l)
	if changed {
		s.changes.Devices++
	}
	if err != nil || l.Up {
		return err
	}
	_, err = s.addAddrs(l.Index, d.Addrs)
	if err != nil {
		return err
	}
	addrs, err := s.conn.Addrs()
	s.addrs[l.Index] = slices.DeleteFunc(addrs, func(a rtnl.Addr) bool { return a.IfIndex != l.Index })
	for i := range s.addrs[l.Index] {
		s.addrs[l.Index][i].Flags &^= unix.IFA_F_TENTATIVE // until the device is up
	}
	return err
}

// sysctls restricts IPv6 to what Fairlead configures: router advertisements are ignored,
// duplicate address detection is off (addresses are assigned uniquely, and it would delay the
// first packet), and the link-local address is EUI-64, which the datapath expects. A device
// without an IPv6 address starts with IPv6 disabled.
//
// The namespace's owner decides whether a device has IPv6: before the first configuration by the
// setting of all devices, later by any. IPv6 is not enabled again, and while it is disabled, IPv6
// addresses and routes are not configured. What the user chose for the device comes before all that.
func (s *sandbox) sysctls(l rtnl.Link, d *Device) error {
	v6 := slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	settings := ipv6Settings(l, v6)
	off := l.Conf.DisableIPv6 == 1
	if i := slices.IndexFunc(d.Settings, isDisableIPv6); i >= 0 {
		off = d.Settings[i].Value != "0"
	}
	if d.Fresh && off && v6 && !slices.ContainsFunc(d.Settings, isDisableIPv6) {
		var err error
		if off, err = allOff(); err != nil {
			return err
		}
	}
	if !d.Fresh || off {
		settings = slices.DeleteFunc(settings, func(s rtnl.Sysctl) bool { return s.Key == disableIPv6 })
	}
	if off && v6 {
		d.Addrs = slices.DeleteFunc(slices.Clone(d.Addrs), func(p netip.Prefix) bool { return p.Addr().Is6() })
		d.Gateways = slices.DeleteFunc(slices.Clone(d.Gateways), netip.Addr.Is6)
	}
	if d.On != nil && d.Fresh {
		settings = append(settings, rtnl.Sysctl{Family: "ipv4", Device: l.Name, Key: "arp_notify", Value: "1"})
		if v6 && !off {
			settings = append(settings, rtnl.Sysctl{Family: "ipv6", Device: l.Name, Key: "ndisc_notify", Value: "1"})
		}
	}
	settings = slices.DeleteFunc(settings, d.chosen)
	s.changes.Sysctls += len(settings)
	return errors.Join(rtnl.WriteSysctls(settings), s.choose(l, d))
}

// allOff reports whether IPv6 is disabled on all devices of the calling thread's namespace.
func allOff() (bool, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/" + disableIPv6)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)) == "1", nil
}

// addAddrs adds the addresses that a device does not have. off: the namespace's owner has disabled IPv6 since the
// device was read.
func (s *sandbox) addAddrs(index uint32, want []netip.Prefix) (off bool, err error) {
	for _, p := range want {
		if hasAddr(s.addrs[index], p) {
			continue
		}
		err := s.conn.AddAddr(index, p)
		if err != nil && p.Addr().Is6() && s.isOff(index) {
			off = true
			continue
		}
		s.changes.Addresses++
		if err != nil {
			return off, err
		}
		s.added = append(s.added, p)
	}
	return off, nil
}

// isOff reports whether IPv6 is disabled on a device now.
func (s *sandbox) isOff(index uint32) bool {
	links, err := s.conn.Links()
	return err == nil && slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Index == index && l.Conf.DisableIPv6 == 1 })
}

// defaultRoute sets one family's default route and removes Fairlead's others. If there is a
// default route of another program, it is kept and none is added.
func (s *sandbox) defaultRoute(devs []Device, fam int) error {
	var want netip.Addr
	var device uint32
	for _, d := range devs {
		for _, gw := range d.Gateways {
			if rtnl.Family(gw) == fam {
				want, device = gw, d.PeerIndex
			}
		}
	}
	routes, err := s.conn.Routes(fam)
	if err != nil {
		return err
	}
	right, others := false, false
	var stale []rtnl.Route
	for _, r := range routes {
		switch {
		case r.Dst.Bits() != 0 || r.Table != unix.RT_TABLE_MAIN:
		case r.Protocol != rtnl.RouteProtocol:
			others = true
		case want.IsValid() && (r.Gateway == want || want.IsUnspecified() && !r.Gateway.IsValid()) && slices.Equal(r.Devices, []uint32{device}):
			right = true
		default:
			stale = append(stale, r)
		}
	}
	if want.IsValid() && !right && !others {
		err := s.setDefault(want, device)
		if err != nil && fam == unix.AF_INET6 && s.isOff(device) {
			return nil
		}
		s.changes.Routes++
		if err != nil {
			return err
		}
		// One of the stale routes was replaced. Deleting it is not an error.
	}
	for _, r := range stale {
		s.changes.Routes++
		if err := s.conn.DeleteDefault(r); err != nil {
			return err
		}
	}
	return nil
}

// setDefault sets a default route via a gateway, or without one if that is unspecified.
func (s *sandbox) setDefault(gw netip.Addr, device uint32) error {
	if gw.IsUnspecified() {
		return stacked.DefaultRoute(s.tc, gw, device)
	}
	return s.conn.ReplaceDefault(gw, device)
}
