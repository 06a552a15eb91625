// SPDX-License-Identifier: Apache-2.0

// Package host reads facts of the host that verbs depend on: its prefixes and addresses, free
// ports, the range of automatic ports, and processes. It changes nothing, and waits for no lock.
package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/sockdiag"
)

// Facts reads the kernel of the network namespace that its handle is in.
type Facts struct {
	nl        *rtnl.Handle
	dnsPlaces func() []netip.AddrPort
}

// New returns Facts. dnsPlaces returns the addresses and ports at which Fairlead serves DNS.
func New(nl *rtnl.Handle, dnsPlaces func() []netip.AddrPort) *Facts {
	return &Facts{nl: nl, dnsPlaces: dnsPlaces}
}

// HostPrefixes returns the prefixes that the host has addresses in or routes to, without
// Fairlead's own and without default routes.
func (f *Facts) HostPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	addrs, err := f.nl.Addrs()
	if err != nil {
		return nil, err
	}
	ours := f.oursByIndex()
	seen := make(map[netip.Prefix]bool)
	for _, a := range addrs {
		if !ours(a.IfIndex) {
			seen[a.Prefix.Masked()] = true
		}
	}
	err = f.nl.Routes(func(rt rtnl.Route) bool {
		own := len(rt.Devices) > 0
		for _, d := range rt.Devices {
			own = own && ours(d)
		}
		if !own && rt.Dst.Bits() > 0 {
			seen[rt.Dst.Masked()] = true
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	ps := make([]netip.Prefix, 0, len(seen))
	for p := range seen {
		if a := p.Addr(); !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			ps = append(ps, p)
		}
	}
	return ps, nil
}

// HostAddr finds an address within a prefix on a device that is not Fairlead's.
func (f *Facts) HostAddr(ctx context.Context, within netip.Prefix) (device string, addr netip.Addr, err error) {
	if err := ctx.Err(); err != nil {
		return "", addr, err
	}
	addrs, err := f.nl.Addrs()
	if err != nil {
		return "", addr, err
	}
	for _, a := range addrs {
		if !within.Contains(a.Prefix.Addr()) {
			continue
		}
		link, err := f.nl.Link(a.IfIndex)
		if errors.Is(err, rtnl.ErrNoDevice) {
			continue // the device was deleted
		}
		if err != nil {
			return "", addr, err
		}
		if !link.Ours() {
			return link.Name, a.Prefix.Addr(), nil
		}
	}
	return "", addr, nil
}

// oursByIndex returns a function that reports whether a device is Fairlead's. It looks up only
// the devices it is called for, since few have addresses or routes.
func (f *Facts) oursByIndex() func(index uint32) bool {
	known := make(map[uint32]bool)
	return func(index uint32) bool {
		is, ok := known[index]
		if !ok {
			l, err := f.nl.Link(index)
			is = err == nil && l.Ours()
			known[index] = is
		}
		return is
	}
}

// EphemeralRange returns the bounds, inclusive, of the kernel's ephemeral ports.
func (f *Facts) EphemeralRange() (lo, hi uint16) {
	s, err := f.nl.ReadSysctl("ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(s, &lo, &hi)
	}
	if err != nil || lo == 0 || lo > hi {
		return 32768, 60999 // the kernel's default
	}
	return lo, hi
}

// PortFree returns nil if nothing on the host uses any of the ports: it binds each one and closes
// the socket. The zero address means every address of both families, except those at which
// Fairlead serves DNS on that port.
func (f *Facts) PortFree(proto model.Proto, addr netip.Addr, port, count uint16) error {
	served := f.dnsPlaces()
	err := f.nl.Do(func() error {
		for i := range count {
			if err := f.portFree(proto, addr, port+i, served); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, unix.EADDRNOTAVAIL) && f.inLocalPrefix(addr) {
		// Only a local route makes the address the host's. The kernel binds an IPv6 address that
		// no device has only on request (IP_FREEBIND), so no program has the port by accident.
		return nil
	}
	return err
}

// inLocalPrefix reports whether a local route covers addr.
func (f *Facts) inLocalPrefix(addr netip.Addr) bool {
	prefixes, err := f.nl.LocalPrefixes(nil)
	return err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (f *Facts) portFree(proto model.Proto, addr netip.Addr, port uint16, served []netip.AddrPort) error {
	addrs := []netip.Addr{addr}
	if !addr.IsValid() {
		// A dual-stack socket tests both families at once. If that fails, one socket for each
		// family shows which is in use, or missing.
		if tryBind(proto, netip.AddrPortFrom(netip.IPv6Unspecified(), port), false) == nil {
			return nil
		}
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		err := tryBind(proto, netip.AddrPortFrom(a, port), true)
		if a.IsUnspecified() && errors.Is(err, unix.EADDRINUSE) && (boundOnlyAt(served, proto, model.FamilyOf(a), port) || f.boundNowhere(proto, model.FamilyOf(a), port)) {
			continue
		}
		// A host without a family cannot have the port in it.
		if err != nil && (addr.IsValid() || !noFamily(err)) {
			return fmt.Errorf("bind %s/%s: %w", netip.AddrPortFrom(a, port), proto, err)
		}
	}
	return nil
}

// boundOnlyAt reports whether the port is bound at the given places only.
func boundOnlyAt(places []netip.AddrPort, proto model.Proto, f model.Family, port uint16) bool {
	bound, err := sockdiag.Bound(proto, port)
	if err != nil {
		return false // keep the error of bind
	}
	return len(bound) > 0 && !slices.ContainsFunc(bound, func(a netip.Addr) bool {
		concerns := model.FamilyOf(a) == f || a == netip.IPv6Unspecified() // possibly dual-stack
		return concerns && !slices.Contains(places, netip.AddrPortFrom(a, port))
	})
}

// boundNowhere reports whether no socket is bound to the port at any address of a family. The wildcard address is
// refused then because Fairlead publishes the port in the other family: its program does not distinguish these.
func (f *Facts) boundNowhere(proto model.Proto, family model.Family, port uint16) bool {
	bound, err := sockdiag.Bound(proto, port)
	if err != nil || slices.ContainsFunc(bound, func(a netip.Addr) bool { return model.FamilyOf(a) == family }) {
		return false
	}
	addrs, err := f.nl.Addrs()
	if err != nil {
		return false
	}
	tried := false
	for _, a := range addrs {
		at := a.Prefix.Addr()
		if model.FamilyOf(at) != family || at.Is6() && at.IsLinkLocalUnicast() { // which takes a device to bind
			continue
		}
		if err := tryBind(proto, netip.AddrPortFrom(at, port), true); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return false
		}
		tried = true
	}
	return tried
}

func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// tryBind binds a socket in the calling thread's namespace, without listening. An IPv6 socket
// that is not v6Only is dual-stack.
func tryBind(proto model.Proto, at netip.AddrPort, v6Only bool) error {
	err := bind(proto, at, v6Only, false)
	if proto != model.TCP || !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	// Remains of closed connections do not occupy the port. A program that has bound it with
	// SO_REUSEADDR and is about to listen does.
	if err := bind(proto, at, v6Only, true); err != nil {
		return err
	}
	reserved, err := sockdiag.Reserved(at.Port())
	if err == nil && reserved {
		err = unix.EADDRINUSE
	}
	return err
}

// bind binds a socket, with or without SO_REUSEADDR, and closes it.
func bind(proto model.Proto, at netip.AddrPort, v6Only, share bool) error {
	kind := unix.SOCK_STREAM
	if proto == model.UDP {
		kind = unix.SOCK_DGRAM
	}
	family := unix.AF_INET
	var sa unix.Sockaddr
	if a := at.Addr(); a.Is4() {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: a.As4()}
	} else {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(at.Port()), Addr: a.As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(proto))
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // nothing can use a port of a protocol that the kernel lacks
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if family == unix.AF_INET6 {
		only := 0
		if v6Only {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
	}
	if share {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, sa)
}
