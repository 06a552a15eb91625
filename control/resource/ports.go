// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// maxPort is the highest port number.
const maxPort = 65535

// ValidatePorts checks each -p option separately.
func ValidatePorts(specs []model.PortSpec) error {
	for _, p := range specs {
		if err := ValidatePortRange("port", p.Port, p.Count, p.Proto); err != nil {
			return err
		}
		if err := Publishable(p.Proto, p.Port); err != nil {
			return err
		}
		if p.HostCount != 0 {
			if err := ValidatePortRange("host port", p.HostPort, p.HostCount, p.Proto); err != nil {
				return err
			}
			if p.HostCount != p.Count && p.Count != 1 {
				return model.Refuse(model.ErrInvalid, "invalid ranges specified for sandbox and host ports: %s and %s (give ranges of the same length, or one sandbox port)",
					rangeText(p.Port, p.Count), rangeText(p.HostPort, p.HostCount))
			}
		}
		if a := p.HostIP; a.Zone() != "" || a.IsMulticast() {
			return model.Refuse(model.ErrInvalid, "invalid host address %v of a published port (give an address of this host, without a zone)", a)
		}
		if a := p.HostIP.Unmap(); a.IsValid() {
			if miss, ok := p.From.Misses(func(f model.Family) bool { return f == model.FamilyOf(a) }); ok {
				return refuseSource(miss, p.Port, p.Count, p.Proto, fmt.Sprintf("is published at %v", a))
			}
		}
	}
	return nil
}

// refuseSource refuses a prefix of clients that cannot reach a port. why completes a sentence about the port.
func refuseSource(prefix netip.Prefix, port, count uint16, proto model.Proto, why string) error {
	f := model.FamilyOf(prefix.Addr())
	return model.Refuse(model.ErrInvalid, "from=%v has no client of port %s/%v, which %s (leave out the prefixes of %v)", prefix, rangeText(port, count), proto, why, f)
}

// Publishable refuses protocols that the datapath cannot translate.
func Publishable(p model.Proto, port uint16) error {
	switch p {
	case model.TCP, model.UDP:
		return nil
	case model.SCTP:
		return model.Refuse(model.ErrNotSupported, "publishing sctp ports is not available yet (leave out %d/sctp)", port)
	}
	return model.Refuse(model.ErrInvalid, "invalid protocol %v of port %d (give tcp or udp)", p, port)
}

// ValidatePortRange checks a range of ports. what names it in the refusal.
func ValidatePortRange(what string, port, count uint16, proto model.Proto) error {
	if port == 0 || count == 0 || int(port)+int(count)-1 > maxPort {
		return model.Refuse(model.ErrInvalid, "invalid %s %s/%v (ports are 1 to %d)", what, rangeText(port, count), proto, maxPort)
	}
	return nil
}

func rangeText(port, count uint16) string {
	if count <= 1 {
		return fmt.Sprint(port)
	}
	return fmt.Sprintf("%d-%d", port, int(port)+int(count)-1)
}

// JoinRuns merges exact ports that are consecutive both on the host and in the sandbox into
// ranges, so that ten thousand single ports cost no more than a range.
func JoinRuns(specs []model.PortSpec) []model.PortSpec {
	var exact, others []model.PortSpec
	for _, s := range specs {
		if flexibility(s) == 0 {
			exact = append(exact, s)
		} else {
			others = append(others, s)
		}
	}
	slices.SortStableFunc(exact, func(a, b model.PortSpec) int {
		return cmp.Or(a.HostIP.Compare(b.HostIP), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort))
	})
	var joined []model.PortSpec
	for _, s := range exact {
		if last := len(joined) - 1; last >= 0 && follows(joined[last], s) {
			joined[last].Count += s.Count
			joined[last].HostCount += s.HostCount
			continue
		}
		joined = append(joined, s)
	}
	return append(joined, others...)
}

// follows reports whether b begins where a ends. Both are exact.
func follows(a, b model.PortSpec) bool {
	return a.HostIP == b.HostIP && a.Proto == b.Proto && a.From == b.From &&
		int(a.HostPort)+int(a.Count) == int(b.HostPort) && int(a.Port)+int(a.Count) == int(b.Port)
}

// ResolvePorts chooses the host ports and returns the publishes at an endpoint. If gw is nil,
// the publishes are nil.
func ResolvePorts(t *txn.Tx, specs []model.PortSpec, gw *model.Endpoint) (ports []model.PortBinding, pubs []*model.Publish, err error) {
	// Resolve the least flexible requests first: exact ports, then one port of
	// a range, then any port.
	order := make([]int, len(specs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(flexibility(specs[a]), flexibility(specs[b])) })

	ports = make([]model.PortBinding, len(specs))
	pubs = make([]*model.Publish, len(specs))
	for _, i := range order {
		s := specs[i]
		b := model.PortBinding{HostIP: s.HostIP.Unmap(), HostPort: s.HostPort, Port: s.Port, Count: s.Count, Proto: s.Proto, From: s.From}
		at, on, by := b, b, gw
		if gw != nil {
			n := t.Next.Network(gw.NetworkID)
			var ok bool
			if at.HostIP, ok = ServedAt(n, gw, b); !ok {
				return nil, nil, model.Refuse(model.ErrInvalid, "port %s/%v cannot be published at %v: network %s has no %s addresses, or no gateway (choose another host address or network)",
					rangeText(b.Port, b.Count), b.Proto, at.HostIP, n.Name, model.FamilyOf(at.HostIP))
			}
			if err := cmp.Or(checkSources(n, gw, at), CheckClients(n, gw, pubs, at), CheckClients(n, gw, t.Served(gw.SandboxID), at)); err != nil {
				return nil, nil, err
			}
			// Where nothing is published at the host, the port is not claimed, and matters only if another endpoint serves it later.
			if on, ok = n.OnHost(at); !ok {
				by = nil
			}
		}
		if err := choosePort(t, s, by, &on, false); err != nil {
			return nil, nil, err
		}
		b.HostPort, at.HostPort = on.HostPort, on.HostPort
		ports[i] = b
		if gw != nil {
			pubs[i] = t.NewPublish(gw, at)
		}
	}
	return ports, pubs, nil
}

// checkSources refuses prefixes of a family from which no client reaches a binding at an endpoint.
func checkSources(n *model.Network, ep *model.Endpoint, b model.PortBinding) error {
	open := n.Openings(ep, b)
	if len(open) == 0 {
		return nil // of an internal network
	}
	miss, ok := b.From.Misses(func(f model.Family) bool {
		return slices.ContainsFunc(open, func(o model.Opening) bool { return model.FamilyOf(o.Host) == f })
	})
	if !ok {
		return nil
	}
	return refuseSource(miss, b.Port, b.Count, b.Proto, fmt.Sprintf("network %s publishes for %v only", n.Name, model.FamilyOf(miss.Addr()).Other()))
}

// CheckClients refuses a binding that opens a port of an endpoint's own address, if one of the publishes, some of which may be
// nil, opens it for other clients: the datapath sees one port.
func CheckClients(n *model.Network, ep *model.Endpoint, pubs []*model.Publish, b model.PortBinding) error {
	for _, p := range pubs {
		if p != nil && p.EndpointID == ep.ID && p.From != b.From && shareOpening(n, ep, p.PortBinding, b) {
			return model.Refuse(model.ErrConflict, "port %s/%v is open at the sandbox's own address for other clients already: network %s is in gateway mode %s, where a port has the same clients whatever -p names it (give the same from= each time)",
				rangeText(b.Port, b.Count), b.Proto, n.Name, model.GatewayRouted)
		}
	}
	return nil
}

// shareOpening reports whether two bindings open the same port of an endpoint's own address.
func shareOpening(n *model.Network, ep *model.Endpoint, a, b model.PortBinding) bool {
	if a.Proto != b.Proto || int(a.Port)+int(a.Count) <= int(b.Port) || int(b.Port)+int(b.Count) <= int(a.Port) {
		return false
	}
	others := n.Openings(ep, b)
	return slices.ContainsFunc(n.Openings(ep, a), func(o model.Opening) bool {
		return o.Direct && slices.ContainsFunc(others, func(p model.Opening) bool { return p.Direct && p.Host == o.Host })
	})
}

// flexibility is 0 for exact host ports, 1 for one port of a range, and 2 for any port.
func flexibility(s model.PortSpec) int {
	switch s.HostCount {
	case s.Count:
		return 0
	case 0:
		return 2
	}
	return 1
}

// ServedAt returns the host address at which an endpoint serves a binding, and
// whether it can serve it.
func ServedAt(n *model.Network, ep *model.Endpoint, b model.PortBinding) (netip.Addr, bool) {
	a := b.HostIP
	if !a.IsValid() {
		a = n.HostBindingIPv4
	}
	if !a.IsValid() {
		return a, true
	}
	return a, n.Serves(ep, a)
}

// choosePort fills in b.HostPort, or checks that the exact port is available. announced: this host may not have
// the address at the moment.
func choosePort(t *txn.Tx, s model.PortSpec, gw *model.Endpoint, b *model.PortBinding, announced bool) error {
	switch flexibility(s) {
	case 0:
		if gw == nil {
			return nil
		}
		return checkPort(t, gw, *b, announced)
	case 1:
		return findPort(t, b, int(s.HostPort), int(s.HostPort)+int(s.HostCount)-1, 0)
	}
	lo, hi := t.Host().EphemeralRange()
	if err := findPort(t, b, int(lo), int(hi), int(t.NextPort())); err != nil {
		return err
	}
	t.SetNextPort(b.HostPort + b.Count) // do not reuse the port soon
	return nil
}

// CheckPort refuses a binding that another publish or another program
// occupies. The texts are Docker's.
func CheckPort(t *txn.Tx, gw *model.Endpoint, b model.PortBinding) error {
	return checkPort(t, gw, b, false)
}

// CheckClaim refuses a binding that another sandbox or a service has.
func CheckClaim(t *txn.Tx, b model.PortBinding) error {
	if port, id, found := t.PortConflict(b); found {
		holder := "another of this sandbox's ports"
		if p := t.Next.Publish(id); p != nil {
			holder = fmt.Sprintf("sandbox %q", publishOwner(t, p))
		} else if svc := t.Next.ServiceNumbered(id); svc != nil {
			holder = fmt.Sprintf("service %q", svc.Name)
		}
		return model.Refuse(model.ErrConflict, "Bind for %s failed: port is already allocated (by %s; choose another host port)", hostPort(b.HostIP, port), holder)
	}
	return nil
}

// checkPort is CheckPort; announced: this host may not have the address at the moment.
func checkPort(t *txn.Tx, gw *model.Endpoint, b model.PortBinding, announced bool) error {
	if err := CheckClaim(t, b); err != nil {
		return err
	}
	err := t.Host().PortFree(b.Proto, b.HostIP, b.HostPort, b.Count)
	if err == nil || announced && errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil
	}
	kind, remedy := model.ErrInvalid, "choose a host address and port that can be bound"
	if busy(err) {
		kind, remedy = model.ErrConflict, "stop the program that uses it, or choose another host port"
	}
	backend := t.Next.Network(gw.NetworkID).Backend(gw, hostAddr(b.HostIP))
	return model.Refuse(kind, "failed to bind host port for %s:%s/%v: %v (%s)", hostPort(b.HostIP, b.HostPort), hostPort(backend, b.Port), b.Proto, err, remedy)
}

func publishOwner(t *txn.Tx, p *model.Publish) string {
	if ep := t.Next.Endpoint(p.EndpointID); ep != nil {
		return t.Next.SandboxName(ep.SandboxID)
	}
	return "?"
}

// busy reports whether an error of PortFree means that another program uses the port.
func busy(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, model.ErrConflict)
}

// maxProbes bounds how many ports one search for a free port may try to bind.
const maxProbes = 1 << 16

// findPort chooses b.Count consecutive host ports in lo..hi. The search begins
// at from and wraps around.
func findPort(t *txn.Tx, b *model.PortBinding, lo, hi, from int) error {
	starts := hi - lo + 1 - (int(b.Count) - 1)
	offset := 0
	if from > lo && from < lo+starts {
		offset = from - lo
	}
	probes := 0
	for k := 0; k < starts && probes < maxProbes; {
		first := lo + (offset+k)%starts
		b.HostPort = uint16(first)
		if port, _, found := t.PortConflict(*b); found {
			// Every range that starts at or before that port contains it too.
			k += min(int(port)-first+1, lo+starts-first)
			continue
		}
		err := t.Host().PortFree(b.Proto, b.HostIP, b.HostPort, b.Count)
		if err == nil {
			return nil
		}
		if !busy(err) {
			return model.Refuse(model.ErrInvalid, "failed to bind host port for %s: %v (choose a host address that can be bound)", hostPort(b.HostIP, b.HostPort), err)
		}
		probes += int(b.Count)
		k += max(1, int(b.Count)/8)
	}
	return model.Refuse(model.ErrExhausted, "no free host port of %d-%d at %s for port %s/%v (free some, or choose the host port yourself)",
		lo, hi, hostAddr(b.HostIP), rangeText(b.Port, b.Count), b.Proto)
}

// hostPort formats an address with a port, and the zero address like Docker as 0.0.0.0.
func hostPort(a netip.Addr, port uint16) string {
	return netip.AddrPortFrom(hostAddr(a), port).String()
}

func hostAddr(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}
