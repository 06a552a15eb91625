// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// modes tests networks on top of devices of the host: of the kinds that not every kernel has, a VLAN, which the daemon
// creates and removes, and ipvlan in each mode; and those whose members the datapath carries on the uplink's link.
func (w *world) modes() error {
	if err := w.vlan(); err != nil {
		return fmt.Errorf("VLAN: %w", err)
	}
	var errs []error
	for _, icc := range []bool{true, false} {
		if err := w.lan(icc); err != nil {
			errs = append(errs, fmt.Errorf("lan, icc %t: %w", icc, err))
		}
	}
	for _, m := range []struct {
		mode, flag string
		talk       bool // members reach each other
	}{
		{"l2", "bridge", true}, {"l2", "private", false}, {"l3", "bridge", true}, {"l3s", "bridge", true}, {"l2", "vepa", false},
	} {
		if err := w.ipvlan(m.mode, m.flag, m.talk); err != nil {
			errs = append(errs, fmt.Errorf("ipvlan %s %s: %w", m.mode, m.flag, err))
		}
	}
	return errors.Join(errs...)
}

// vlan uses a network whose parent is a VLAN of the uplink.
func (w *world) vlan() (err error) {
	const name = uplink + ".50"
	vlan := layout{device: func(over netlink.Link, attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.Vlan{LinkAttrs: attrs, VlanId: 50}
	}}
	err = w.outside.do(func() error {
		return errors.Join(stackDevice(vlan, "eth0", "seg1"), bringUp("seg1", segmentOutside4+lengthIPv4))
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.removeLayout("", "seg1")) }()
	for _, command := range []string{
		"network create -d macvlan -o parent=" + name + " --subnet 198.51.100.0/24 fifty",
		"network create -d macvlan -o parent=" + name + " --subnet 198.51.101.0/24 same",
		"network rm same",
		"run -d --name member --network fifty --ip 198.51.100.9 guest serve 80",
	} {
		if _, err := fairlead(command); err != nil {
			return err
		}
	}
	err = w.onLink("198.51.100.9", segmentOutside4)
	for _, command := range []string{"rm -f member", "network rm fifty"} {
		if _, rmErr := fairlead(command); rmErr != nil {
			err = errors.Join(err, rmErr)
		}
	}
	if _, lookErr := netlink.LinkByName(name); lookErr == nil {
		err = errors.Join(err, errors.New("the VLAN device is left"))
	}
	return err
}

// lan uses a network of the datapath's own with two members on the uplink: they, the host and outside reach each other.
func (w *world) lan(icc bool) (err error) {
	members := map[string][2]string{"member": {"192.0.2.11", "2001:db8:2::11"}, "second": {"192.0.2.12", "2001:db8:2::12"}}
	for _, command := range []string{
		fmt.Sprintf("network create -d lan -o parent=%s -o com.docker.network.bridge.enable_icc=%t --subnet 192.0.2.0/24 --ipv6 --subnet 2001:db8:2::/64 lan", uplink, icc),
		"run -d --name member --network lan --ip 192.0.2.11 --ip6 2001:db8:2::11 guest serve 80",
		"sandbox create --network lan --ip 192.0.2.12 --ip6 2001:db8:2::12 second",
	} {
		if _, err := fairlead(command); err != nil {
			return err
		}
	}
	other, err := entered("second")
	if err != nil {
		return err
	}
	var errs []error
	for i, f := range []struct{ host, outside string }{{uplink4, outside4}, {uplink6, outside6}} {
		member, second := members["member"][i], members["second"][i]
		at := net.JoinHostPort(member, "80")
		errs = append(errs, w.onLink(member, f.outside),
			expect("host to "+member, f.host, func() (string, error) { return ask("tcp", at) }))
		reached := expect(second+" to "+member, second, func() (string, error) { return other.ask("tcp", at) })
		if icc {
			errs = append(errs, reached)
		} else if reached == nil {
			errs = append(errs, errors.New("one member reaches the other"))
		}
	}
	for _, command := range []string{"rm -f member second", "network rm lan"} {
		if _, rmErr := fairlead(command); rmErr != nil {
			errs = append(errs, rmErr)
		}
	}
	return errors.Join(errs...)
}

// onLink connects to a member from outside, and from the member to outside.
func (w *world) onLink(member, outside string) error {
	box, err := entered("member")
	if err != nil {
		return err
	}
	return eventually(func() error {
		return errors.Join(
			expect("outside to "+member, outside, func() (string, error) { return w.outside.ask("tcp", net.JoinHostPort(member, "80")) }),
			expect(member+" to outside", member, func() (string, error) { return box.ask("tcp", net.JoinHostPort(outside, outsidePort)) }))
	})
}

// ipvlan uses a network with two members on the uplink. In the modes that route, they have addresses of another subnet.
func (w *world) ipvlan(mode, flag string, talk bool) (err error) {
	const routed, via = "198.51.102.0/24", uplink4
	subnet, member, second := "192.0.2.0/24", "192.0.2.9", "192.0.2.10"
	if mode != "l2" {
		subnet, member, second = routed, "198.51.102.9", "198.51.102.10"
		_, dst, err := net.ParseCIDR(routed)
		if err != nil {
			return err
		}
		route := &netlink.Route{Dst: dst, Gw: net.ParseIP(via)}
		if err := w.outside.do(func() error { return netlink.RouteReplace(route) }); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.outside.do(func() error { return netlink.RouteDel(route) })) }()
	}
	create := "network create -d ipvlan -o parent=" + uplink + " -o ipvlan_mode=" + mode + " -o ipvlan_flag=" + flag + " --subnet " + subnet
	for _, command := range []string{
		create + " ip",
		"run -d --name member --network ip --ip " + member + " guest serve 80",
		"sandbox create --network ip --ip " + second + " second",
	} {
		if _, err := fairlead(command); err != nil {
			return err
		}
	}
	err = w.onLink(member, outside4)
	other, enterErr := entered("second")
	if enterErr != nil {
		return errors.Join(err, enterErr)
	}
	reached := expect("one member to the other", second, func() (string, error) { return other.ask("tcp", member+":80") })
	if talk {
		err = errors.Join(err, reached)
	} else if reached == nil {
		err = errors.Join(err, errors.New("one member reaches the other"))
	}
	if _, refused := fairlead(strings.Replace(create, subnet, "198.51.103.0/24", 1) + " more"); refused == nil || !strings.Contains(refused.Error(), "already using parent interface") {
		err = errors.Join(err, fmt.Errorf("a second network on the parent: %v", refused))
	}
	for _, command := range []string{"rm -f member second", "network rm ip"} {
		if _, rmErr := fairlead(command); rmErr != nil {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}
