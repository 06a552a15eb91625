// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The uplink and the only outside host. That host does not have a route to the sandboxes:
// their packets must come from the uplink's address.
const (
	uplink      = "up0"
	uplink4     = "192.0.2.1"
	uplink6     = "2001:db8:2::1"
	outside4    = "192.0.2.2"
	outside6    = "2001:db8:2::2"
	outsidePort = "7000"
	lengthIPv4  = "/24"
	lengthIPv6  = "/64"
)

// outside is the network namespace of the outside host: a thread that lives in it.
type outside struct {
	tid  int
	work chan func()
}

// newOutside makes the outside host, connects it, and starts its service.
func newOutside() (*outside, error) {
	if err := quickIPv6(); err != nil {
		return nil, err
	}
	o := &outside{work: make(chan func())}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps the namespace
		o.tid = unix.Gettid()
		started <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range o.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	if err := o.do(quickIPv6); err != nil { // before it has a device: new devices take the setting
		return nil, err
	}
	if err := o.connect(); err != nil {
		return nil, err
	}
	var s *service
	err := o.do(func() (err error) {
		s, err = listen(outsidePort)
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() { _ = s.run() }() // ends with the machine
	return o, nil
}

// do runs f in the namespace.
func (o *outside) do(f func() error) error {
	done := make(chan error)
	o.work <- func() { done <- f() }
	return <-done
}

// ask queries a service from outside.
func (o *outside) ask(network, addr string) (answer string, err error) {
	err = o.do(func() error {
		answer, err = ask(network, addr)
		return err
	})
	return answer, err
}

// connect makes the uplink and its other end.
func (o *outside) connect() error {
	const peer = "eth0"
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: uplink},
		PeerName:  peer, PeerNamespace: netlink.NsPid(o.tid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the uplink: %w", err)
	}
	if err := bringUp("lo"); err != nil {
		return err
	}
	if err := bringUp(uplink, uplink4+lengthIPv4, uplink6+lengthIPv6); err != nil {
		return err
	}
	err := o.do(func() error {
		if err := bringUp("lo"); err != nil { // the net package probes ::1 to detect IPv6
			return err
		}
		if err := slowNeighbours(peer); err != nil {
			return err
		}
		return bringUp(peer, outside4+lengthIPv4, outside6+lengthIPv6)
	})
	if err != nil {
		return err
	}
	for _, gateway := range []string{outside4, outside6} {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
			return fmt.Errorf("route through %s: %w", gateway, err)
		}
	}
	return nil
}

// bringUp sets a device of the calling thread's namespace up and adds addresses to it.
func bringUp(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s address %s: %w", name, text, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

// quickIPv6 makes IPv6 addresses usable immediately, on devices that the calling thread's namespace
// gets from now on.
func quickIPv6() error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
}

// slowNeighbours makes a device of the calling thread's namespace keep a neighbour's MAC for long, as
// routers do: a stale MAC then fails a test every time, and not by chance.
func slowNeighbours(device string) error {
	const hour = "3600000"
	var errs []error
	for _, family := range []string{"ipv4", "ipv6"} {
		path := "/proc/sys/net/" + family + "/neigh/" + device + "/base_reachable_time_ms"
		errs = append(errs, os.WriteFile(path, []byte(hour), 0))
	}
	return errors.Join(errs...)
}
