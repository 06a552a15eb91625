// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// HostPrefixes are the prefixes the host has addresses in or routes to, without
// Fairlead's own and without default routes.
func (r *Reconciler) HostPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	addrs, err := r.nl.Addrs()
	if err != nil {
		return nil, err
	}
	ours := r.oursByIndex()
	seen := make(map[netip.Prefix]bool)
	for _, a := range addrs {
		if !ours(a.IfIndex) {
			seen[a.Prefix.Masked()] = true
		}
	}
	err = r.nl.Routes(func(rt rtnl.Route) bool {
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
func (r *Reconciler) HostAddr(ctx context.Context, within netip.Prefix) (device string, addr netip.Addr, err error) {
	if err := ctx.Err(); err != nil {
		return "", addr, err
	}
	addrs, err := r.nl.Addrs()
	if err != nil {
		return "", addr, err
	}
	for _, a := range addrs {
		if !within.Contains(a.Prefix.Addr()) {
			continue
		}
		link, err := r.nl.Link(a.IfIndex)
		if errors.Is(err, rtnl.ErrNoDevice) {
			continue // it went, with its addresses
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

// oursByIndex tells Fairlead's devices. It looks each up that it is asked about,
// since few of them bear addresses or routes.
func (r *Reconciler) oursByIndex() func(index uint32) bool {
	known := make(map[uint32]bool)
	return func(index uint32) bool {
		is, ok := known[index]
		if !ok {
			l, err := r.nl.Link(index)
			is = err == nil && l.Ours()
			known[index] = is
		}
		return is
	}
}

// VanishedSandboxes lists the sandboxes whose namespace ended at least that long ago: there is
// none at its path, and no device is left that would have ended with it. A namespace
// that lives on without a path, or where this process does not see it, is not gone.
func (r *Reconciler) VanishedSandboxes(least time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, b := range r.sandboxes {
		if b.gone && time.Since(b.goneAt) >= least && !r.hasDevice(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// hasDevice reports whether an endpoint of the sandbox has a device, or may have.
func (r *Reconciler) hasDevice(id string) bool {
	for _, e := range r.endpoints {
		if e.want == nil || e.want.SandboxID != id || e.hostIf == 0 {
			continue
		}
		if _, err := r.nl.Link(e.hostIf); !errors.Is(err, rtnl.ErrNoDevice) {
			return true
		}
	}
	return false
}

// InnerEnd tells where the inner end of a foreign sandbox's endpoint is. It looks
// for itself: it is asked what others did just now.
func (r *Reconciler) InnerEnd(ep *model.Endpoint) (model.InnerEnd, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.endpoints[ep.ID]
	if e == nil || e.hostIf == 0 {
		return model.InnerGone, nil
	}
	host, err := r.nl.Link(e.hostIf)
	if errors.Is(err, rtnl.ErrNoDevice) {
		return model.InnerGone, nil
	}
	if err != nil {
		return 0, err
	}
	if host.Running {
		return model.InnerTaken, nil // only the engine brings the inner end up
	}
	inner, err := r.nl.LinkByName(ep.IfName)
	switch {
	case errors.Is(err, rtnl.ErrNoDevice):
		return model.InnerTaken, nil
	case err != nil:
		return 0, err
	case inner.PeerIndex == host.Index:
		return model.InnerOnHost, nil
	}
	return model.InnerTaken, nil
}

// EphemeralRange bounds the ports the kernel chooses from, both included.
func (r *Reconciler) EphemeralRange() (lo, hi uint16) {
	s, err := r.nl.ReadSysctl("ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(s, &lo, &hi)
	}
	if err != nil || lo == 0 || lo > hi {
		return 32768, 60999 // the kernel's default
	}
	return lo, hi
}

// PortFree returns nil if nothing on the host has one of the ports: it binds
// each and lets go of it. A zero address is every address of both families; to those
// where names are served, which keep their port, that does not extend.
func (r *Reconciler) PortFree(proto model.Proto, addr netip.Addr, port, count uint16) error {
	served := r.dnsAddrs()
	err := r.nl.Do(func() error {
		for i := range count {
			if err := portFree(proto, addr, port+i, served); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, unix.EADDRNOTAVAIL) && r.inLocalPrefix(addr) {
		// The host's by a route v6Only: the kernel binds an address of IPv6 that is none of a
		// device's only on request, so no program has the port by accident.
		return nil
	}
	return err
}

// inLocalPrefix reports whether a local route makes addr the host's.
func (r *Reconciler) inLocalPrefix(addr netip.Addr) bool {
	prefixes, err := r.nl.LocalPrefixes(nil)
	return err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// dnsPort is where names are served.
const dnsPort = 53

// dnsAddrs are the addresses where names are.
func (r *Reconciler) dnsAddrs() (list []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.networks {
		if n.want == nil || !n.want.DNS {
			continue
		}
		for _, p := range gatewayPrefixes(n.want) {
			list = append(list, p.Addr())
		}
	}
	return list
}

func portFree(proto model.Proto, addr netip.Addr, port uint16, served []netip.Addr) error {
	addrs := []netip.Addr{addr}
	if !addr.IsValid() {
		// One socket of both families asks for all at once; who is in the way, or
		// which family is missing, tell the two.
		if tryBind(proto, netip.AddrPortFrom(netip.IPv6Unspecified(), port), false) == nil {
			return nil
		}
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		err := tryBind(proto, netip.AddrPortFrom(a, port), true)
		if port == dnsPort && a.IsUnspecified() && errors.Is(err, unix.EADDRINUSE) && boundOnlyAt(served, proto, a.Is4(), port) {
			continue
		}
		// A host without a family has nothing in it.
		if err != nil && (addr.IsValid() || !noFamily(err)) {
			return fmt.Errorf("bind %s/%s: %w", netip.AddrPortFrom(a, port), proto, err)
		}
	}
	return nil
}

// boundOnlyAt reports whether those who have a port have it at certain addresses only.
func boundOnlyAt(addrs []netip.Addr, proto model.Proto, is4 bool, port uint16) bool {
	bound, err := rtnl.Bound(proto, port)
	if err != nil {
		return false // what bind said stands
	}
	return !slices.ContainsFunc(bound, func(a netip.Addr) bool {
		concerns := a.Is4() == is4 || a == netip.IPv6Unspecified() // which may mean both families
		return concerns && !slices.Contains(addrs, a)
	})
}

func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// tryBind binds a socket in the calling thread's namespace, without listening.
// One of IPv6 that is not of it v6Only is of both families.
func tryBind(proto model.Proto, at netip.AddrPort, v6Only bool) error {
	err := bind(proto, at, v6Only, false)
	if proto != model.TCP || !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	// What is left of closed connections does not occupy the port; a program that bound it and
	// is about to listen does, though it shares the port as well.
	if err := bind(proto, at, v6Only, true); err != nil {
		return err
	}
	reserved, err := rtnl.Reserved(at.Port())
	if err == nil && reserved {
		err = unix.EADDRINUSE
	}
	return err
}

// bind binds a socket, sharing the port with others that share it or not, and lets go of it.
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
		return nil // nobody can have a port of a protocol the kernel lacks
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
