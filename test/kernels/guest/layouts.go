// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the second segment, on the host and outside.
const (
	segment4, segment6               = "198.51.100.1", "2001:db8:100::1"
	segmentOutside4, segmentOutside6 = "198.51.100.2", "2001:db8:100::2"
)

// layout is a way to connect the host to a second segment.
type layout struct {
	name string
	// device makes the segment's device in the calling thread's namespace, over the named
	// device. It is called outside only for VLANs; the others exist only on the host.
	device  func(over netlink.Link, attrs netlink.LinkAttrs) netlink.Link
	outside bool
}

func layouts() []layout {
	return []layout{
		{"vlan", func(over netlink.Link, attrs netlink.LinkAttrs) netlink.Link {
			return &netlink.Vlan{LinkAttrs: attrs, VlanId: 100}
		}, true},
		{"macvlan", func(over netlink.Link, attrs netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}, false},
		{"ipvlan", func(over netlink.Link, attrs netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
		}, false},
		{"bond", nil, false},
	}
}

// layouts tests each way to connect a host that this kernel has the devices for, over the
// uplink that has addresses, or beside it.
func (w *world) layouts() error {
	var errs []error
	for _, l := range layouts() {
		if err := w.layout(l); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}

func (w *world) layout(l layout) (err error) {
	const host, peer = "seg0", "seg1"
	outside := "eth0"
	switch {
	case l.device == nil:
		outside = peer
		err = w.bond(host, peer)
	default:
		if err = stackDevice(l, uplink, host); err == nil && l.outside {
			outside = peer
			err = w.outside.do(func() error { return stackDevice(l, "eth0", peer) })
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.removeLayout(host, outside)) }()
	if err := bringUp(host, segment4+lengthIPv4, segment6+lengthIPv6); err != nil {
		return err
	}
	err = w.outside.do(func() error { return bringUp(outside, segmentOutside4+lengthIPv4, segmentOutside6+lengthIPv6) })
	if err != nil {
		return err
	}
	return eventually(func() error { return w.segment() })
}

func stackDevice(l layout, over, name string) error {
	lower, err := netlink.LinkByName(over)
	if err != nil {
		return err
	}
	if err := netlink.LinkAdd(l.device(lower, netlink.LinkAttrs{Name: name, ParentIndex: lower.Attrs().Index})); err != nil {
		return fmt.Errorf("make %s over %s: %w", name, over, err)
	}
	return nil
}

// bond makes a bond of one device, whose cable ends outside.
func (w *world) bond(host, peer string) error {
	const port = "seg2"
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: peer, PeerNamespace: netlink.NsPid(w.outside.tid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the bond's port: %w", err)
	}
	bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: host})
	bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 100
	if err := netlink.LinkAdd(bond); err != nil {
		return fmt.Errorf("make a bond: %w", err)
	}
	return netlink.LinkSetMaster(veth, bond)
}

// removeLayout removes everything of a layout and ignores what does not exist. The next layout must
// not see the remains of this one.
func (w *world) removeLayout(host, outside string) error {
	defer time.Sleep(time.Second)
	for _, name := range []string{host, "seg2"} {
		if l, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(l)
		}
	}
	return w.outside.do(func() error {
		l, err := netlink.LinkByName(outside)
		if err != nil {
			return nil
		}
		if outside != "eth0" {
			return netlink.LinkDel(l)
		}
		for _, text := range []string{segmentOutside4 + lengthIPv4, segmentOutside6 + lengthIPv6} {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if err := netlink.AddrDel(l, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		return forgetNeighbours(l)
	})
}

// forgetNeighbours removes all neighbours of a device of the calling thread's namespace. Otherwise
// the outside host would send to the MAC that the host's address had in the layout before, until
// its entry expires or the host happens to send to it.
func forgetNeighbours(l netlink.Link) error {
	list, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the neighbours of %s: %w", l.Attrs().Name, err)
	}
	for _, n := range list {
		if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s of %s: %w", n.IP, l.Attrs().Name, err)
		}
	}
	return nil
}

// segment uses every path through the second segment, and through the network card, once.
func (w *world) segment() error {
	var errs []error
	for _, protocol := range []string{"tcp", "udp"} {
		for _, f := range []struct{ host, outside string }{
			{segment4, segmentOutside4}, {segment6, segmentOutside6}, {uplink4, outside4}, {uplink6, outside6},
		} {
			published, service := net.JoinHostPort(f.host, webPort), net.JoinHostPort(f.outside, outsidePort)
			errs = append(errs,
				expect("outside to "+published+"/"+protocol, f.outside, func() (string, error) {
					return w.outside.ask(protocol, published)
				}),
				expect("box to "+service+"/"+protocol, f.host, func() (string, error) { return w.box.ask(protocol, service) }),
				expect("host to "+service+"/"+protocol, f.host, func() (string, error) { return ask(protocol, service) }))
		}
	}
	return errors.Join(errs...)
}
