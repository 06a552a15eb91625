// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
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
	case len(spec.Name) > MaxNameLen || !serviceRule.MatchString(spec.Name):
		return model.Refuse(model.ErrInvalid, "invalid service name %q (give one that can be a name in DNS: letters, digits, - and _)", spec.Name)
	case spec.Network == "":
		return model.Refuse(model.ErrInvalid, "service %s has no network (give --network)", spec.Name)
	case a != 0 && (a < minAffinity || a > maxAffinity || a%time.Second != 0):
		return model.Refuse(model.ErrInvalid, "invalid affinity %v (give whole seconds from %v to %v, or 0 for none)", a, minAffinity, maxAffinity)
	}
	return ValidatePorts(spec.Ports)
}

// AddService adds a service to a network.
func AddService(ctx context.Context, t *txn.Tx, n *model.Network, spec model.ServiceSpec) (*model.Service, error) {
	switch {
	case n.ManagedBy == model.ByEngine:
		return nil, model.Refuse(model.ErrForbidden, "network %s is managed by a container engine, which allocates its addresses (create the service in a network of: fairlead network create)", n.Name)
	case !n.Has().Pools:
		return nil, model.Refuse(model.ErrInvalid, "network %s has no addresses (create the service in a network of: fairlead network create)", n.Name)
	case n.Has().Shared: // other hosts may give the address away
		return nil, model.Refuse(model.ErrNotSupported, "network %s spans hosts, and services there are not available yet (create the service in a network of driver bridge)", n.Name)
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
		FixedIPs: spec.IPv4.IsValid() || spec.IPv6.IsValid(), Affinity: spec.Affinity, Labels: maps.Clone(spec.Labels),
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
	if svc.Ports, err = servicePorts(t, n, svc, spec.Ports); err != nil {
		return nil, err
	}
	t.PutService(svc.ID, svc)
	return svc, nil
}

// servicePorts chooses and claims the host ports of a service.
func servicePorts(t *txn.Tx, n *model.Network, svc *model.Service, specs []model.PortSpec) ([]model.PortBinding, error) {
	// What serves them has the families of the virtual addresses.
	at := &model.Endpoint{NetworkID: n.ID}
	for f, p := range map[model.Family]*netip.Prefix{model.V4: &at.IPv4, model.V6: &at.IPv6} {
		if a := svc.Addr(f); a.IsValid() {
			*p = netip.PrefixFrom(a, a.BitLen())
		}
	}
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
		if err := choosePort(t, s, at, &b); err != nil {
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
}

// describeServices lists the names of services, the first few in full.
func describeServices(s *desired.Snapshot, networkID string) (names []string) {
	for svc := range s.ServicesOf(networkID) {
		names = append(names, svc.Name)
	}
	slices.Sort(names)
	return names
}
