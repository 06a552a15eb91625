// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// serviceRule is the form of a service's name: a label of DNS, or several, since it is a name there.
var serviceRule = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*$`)

// Limits of affinity: entries of the datapath have whole seconds, 31 bits of them.
const (
	minAffinity = time.Second
	maxAffinity = 365 * 24 * time.Hour
)

// ValidateService checks what a user requests of a new service.
func ValidateService(spec model.ServiceSpec) error {
	switch a := spec.Affinity; {
	case len(spec.Name) > model.MaxNameLen || !serviceRule.MatchString(spec.Name):
		return model.Refuse(model.ErrInvalid, "invalid service name %q (give one that can be a name in DNS: letters, digits, - and _)", spec.Name)
	case spec.Network == "":
		return model.Refuse(model.ErrInvalid, "service %s has no network (give --network)", spec.Name)
	case a != 0 && (a < minAffinity || a > maxAffinity || a%time.Second != 0):
		return model.Refuse(model.ErrInvalid, "invalid affinity %v (give whole seconds from %v to %v, or 0 for none)", a, minAffinity, maxAffinity)
	}
	for _, p := range spec.Ports {
		if p.From != "" {
			return model.Refuse(model.ErrNotSupported, "port %s/%v of service %s cannot be limited to from=%s: only ports of sandboxes can (leave it out, or publish the port with: fairlead run -p)",
				rangeText(p.Port, p.Count), p.Proto, spec.Name, p.From)
		}
	}
	if err := ValidatePorts(spec.Ports); err != nil {
		return err
	}
	return validateAnnounce(spec)
}

// validateAnnounce checks the addresses that a service is to announce.
func validateAnnounce(spec model.ServiceSpec) error {
	if spec.Announce && len(spec.Ports) == 0 {
		return model.Refuse(model.ErrInvalid, "service %s has no address to announce (give -p ADDRESS:PORT:PORT with --announce)", spec.Name)
	}
	for _, p := range spec.Ports {
		a := p.HostIP.Unmap()
		if spec.Announce && (!a.IsGlobalUnicast() || p.HostPort == 0) {
			return model.Refuse(model.ErrInvalid, "port %s/%v of service %s has no address and host port to announce (give -p ADDRESS:PORT:PORT with --announce)",
				rangeText(p.Port, p.Count), p.Proto, spec.Name)
		}
	}
	return nil
}

// AddService adds a service to a network of this host.
func AddService(t *txn.Tx, n *model.Network, spec model.ServiceSpec) (*model.Service, error) {
	svc, err := PlanService(t, n, spec)
	if err == nil {
		t.PutService(svc.ID, svc)
	}
	return svc, err
}

// PlanService returns a service and takes what it needs, but does not add it.
func PlanService(t *txn.Tx, n *model.Network, spec model.ServiceSpec) (*model.Service, error) {
	switch {
	case n.ManagedBy == model.ByEngine:
		return nil, model.Refuse(model.ErrForbidden, "network %s is managed by a container engine, which allocates its addresses (create the service in a network of: fairlead network create)", n.Name)
	case !n.Has().Pools:
		return nil, model.Refuse(model.ErrInvalid, "network %s has no addresses (create the service in a network of: fairlead network create)", n.Name)
	case !n.Has().Entries:
		return nil, model.Refuse(model.ErrInvalid, "no program of Fairlead sees the packets of network %s (driver %s), so it has no services (create the service in a network of: fairlead network create)", n.Name, n.Driver)
	case n.OnLink():
		return nil, model.Refuse(model.ErrInvalid, "members of network %s are on the link of %s, so it has no services (create the service in a network of driver bridge)", n.Name, n.Parent)
	case !n.ICC:
		return nil, model.Refuse(model.ErrForbidden, "members of network %s may not reach each other (%s=false), so they cannot reach a service (create it in another network)", n.Name, model.OptICC)
	case n.Name == model.NetworkBridge:
		return nil, model.Refuse(model.ErrInvalid, "network bridge has no aliases, so a service in it would have no backends (create a network with: fairlead network create)")
	case n.Internal && len(spec.Ports) > 0:
		return nil, model.Refuse(model.ErrInvalid, "network %s is internal, so ports cannot be published (leave out -p, or choose another network)", n.Name)
	}
	if o := t.Next.ServiceIn(n.ID, spec.Name); o != nil {
		return nil, model.Refuse(model.ErrConflict, "service %s already exists in network %s (choose another name, or remove it with: fairlead service rm %[1]s)", o.Name, n.Name)
	}
	svc := &model.Service{
		ID: NewID(t.Next.ServicesByPrefix), Name: spec.Name, NetworkID: n.ID, Created: t.Now(), Number: t.NewNumber(),
		FixedIPs: spec.IPv4.IsValid() || spec.IPv6.IsValid(), Announce: spec.Announce, Affinity: spec.Affinity, Labels: maps.Clone(spec.Labels),
	}
	for _, f := range []struct {
		of   model.Family
		want netip.Addr
		have *netip.Addr
	}{{model.V4, spec.IPv4, &svc.IPv4}, {model.V6, spec.IPv6, &svc.IPv6}} {
		p, err := takeAddr(t, n, f.of, f.want)
		if err != nil {
			return nil, err
		}
		*f.have = p.Addr()
	}
	var err error
	if svc.MAC, err = chooseMAC(t, n, model.MAC{}, cmp.Or(svc.IPv4, svc.IPv6)); err != nil {
		return nil, err
	}
	svc.Ports, err = servicePorts(t, n, svc, spec.Ports)
	return svc, err
}

// AdoptService adds a service that a cluster shares, or makes the local one the same. It returns why
// ports cannot be published here, which are left out.
func AdoptService(t *txn.Tx, shared *model.Service) (refused []error, err error) {
	n, was, now := t.Next.Network(shared.NetworkID), t.Next.Service(shared.ID), *shared
	if n == nil {
		return nil, model.Refuse(model.ErrNotFound, "the network of service %s does not exist on this host", shared.Name)
	}
	if was != nil {
		now.Number, now.Ports = was.Number, slices.Clone(was.Ports)
	} else {
		if o := t.Next.ServiceIn(n.ID, shared.Name); o != nil {
			return nil, model.Refuse(model.ErrConflict, "service %s of network %s is still another one on this host", o.Name, n.Name)
		}
		if _, err := chooseID(t.Next.ServicesByPrefix, shared.ID); err != nil {
			return nil, err
		}
		for _, f := range model.Families {
			if a := shared.Addr(f); a.IsValid() {
				if _, err := takeAddr(t, n, f, a); err != nil {
					return nil, err
				}
			}
		}
		now.Number, now.Ports = t.NewNumber(), nil
	}
	at := servingAt(n, &now)
	for _, b := range shared.Ports {
		if slices.Contains(now.Ports, b) {
			continue
		}
		if err := checkPort(t, at, b, now.Announce); err != nil {
			refused = append(refused, err)
			continue
		}
		t.ClaimPorts(now.Number, b)
		now.Ports = append(now.Ports, b)
	}
	if was == nil || !reflect.DeepEqual(*was, now) {
		t.PutService(now.ID, &now)
	}
	return refused, nil
}

// HasPorts reports whether a network has services with published ports.
func HasPorts(s *desired.Snapshot, networkID string) bool {
	for svc := range s.ServicesOf(networkID) {
		if len(svc.Ports) > 0 {
			return true
		}
	}
	return false
}

// servingAt returns an endpoint that stands for the backends of a service: it has the families of the
// virtual addresses.
func servingAt(n *model.Network, svc *model.Service) *model.Endpoint {
	at := &model.Endpoint{NetworkID: n.ID}
	for f, p := range map[model.Family]*netip.Prefix{model.V4: &at.IPv4, model.V6: &at.IPv6} {
		if a := svc.Addr(f); a.IsValid() {
			*p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	return at
}

// servicePorts chooses and claims the host ports of a service.
func servicePorts(t *txn.Tx, n *model.Network, svc *model.Service, specs []model.PortSpec) ([]model.PortBinding, error) {
	at := servingAt(n, svc)
	specs = JoinRuns(specs)
	slices.SortStableFunc(specs, func(a, b model.PortSpec) int { return cmp.Compare(flexibility(a), flexibility(b)) })
	var ports []model.PortBinding
	for _, s := range specs {
		b := model.PortBinding{HostIP: s.HostIP.Unmap(), HostPort: s.HostPort, Port: s.Port, Count: s.Count, Proto: s.Proto}
		var ok bool
		if b.HostIP, ok = ServedAt(n, at, b); !ok {
			return nil, model.Refuse(model.ErrInvalid, "port %s/%v cannot be published at %v: network %s has no %s addresses, or no gateway (choose another host address or network)",
				rangeText(b.Port, b.Count), b.Proto, b.HostIP, n.Name, model.FamilyOf(b.HostIP))
		}
		// Backends have other addresses than the service, so it opens no ports of its own ones.
		if b, ok = n.OnHost(b); !ok {
			return nil, model.Refuse(model.ErrInvalid, "port %s/%v cannot be published: network %s routes its family, and a service publishes ports of the host only (leave out -p, or use a network in gateway mode nat)", rangeText(b.Port, b.Count), b.Proto, n.Name)
		}
		if err := choosePort(t, s, at, &b, svc.Announce); err != nil {
			return nil, err
		}
		t.ClaimPorts(svc.Number, b)
		ports = append(ports, b)
	}
	return ports, nil
}

// RemoveService removes a service.
func RemoveService(t *txn.Tx, svc *model.Service) {
	for _, b := range svc.Ports {
		t.FreePorts(svc.Number, b)
	}
	ReleaseAddr(t, svc.NetworkID, svc.IPv4)
	ReleaseAddr(t, svc.NetworkID, svc.IPv6)
	t.PutService(svc.ID, nil)
	IdleIfUnused(t, svc.NetworkID)
}

// describeServices lists the names of services, the first few in full.
func describeServices(s *desired.Snapshot, networkID string) (names []string) {
	for svc := range s.ServicesOf(networkID) {
		names = append(names, svc.Name)
	}
	slices.Sort(names)
	return names
}
