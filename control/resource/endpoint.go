// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// NewEndpoint returns an endpoint without a sandbox, with its addresses allocated.
func NewEndpoint(t *txn.Tx, n *model.Network, spec model.EndpointSpec) (*model.Endpoint, error) {
	if n.Has().Shared {
		return claimedEndpoint(t, n, spec)
	}
	id, err := chooseID(t.Next.EndpointsByPrefix, spec.EngineID)
	if err != nil {
		return nil, err
	}
	ep := newEndpoint(id, n, spec)
	if n.IPAM == model.IPAMDHCP {
		ep.Lease = new(model.Lease)
		if spec.IPv4.IsValid() {
			ep.Lease.Address = netip.PrefixFrom(spec.IPv4, spec.IPv4.BitLen())
		}
	} else if spec.IPv4.IsValid() || spec.Chooses(model.V4) {
		if ep.IPv4, err = takeAddr(t, n, model.V4, spec.IPv4); err != nil {
			return nil, err
		}
	}
	if spec.IPv6.IsValid() || spec.Chooses(model.V6) {
		if ep.IPv6, err = takeAddr(t, n, model.V6, spec.IPv6); err != nil {
			return nil, err
		}
	}
	if n.Has().OnHost == model.DeviceParent {
		ep.MAC, err = chooseParentMAC(t, n, spec, ep)
	} else {
		ep.MAC, err = chooseMAC(t, n, spec.MAC, firstAddr(ep))
	}
	return ep, err
}

func firstAddr(ep *model.Endpoint) netip.Addr { return cmp.Or(ep.IPv4.Addr(), ep.IPv6.Addr()) }

// newEndpoint returns an endpoint without addresses.
func newEndpoint(id string, n *model.Network, spec model.EndpointSpec) *model.Endpoint {
	return &model.Endpoint{
		ID:        id,
		NetworkID: n.ID,
		Aliases:   slices.Clone(spec.Aliases),
		Links:     slices.Clone(spec.Links),
		Sysctls:   slices.Clone(spec.Sysctls),
		FixedIPv4: spec.IPv4.IsValid(),
		FixedIPv6: spec.IPv6.IsValid(),
		FixedMAC:  !spec.MAC.IsZero(),
		Leased:    spec.Leased,
		Bandwidth: bandwidthOf(n, spec),

		GwPriority: spec.GwPriority,
	}
}

// claimedEndpoint returns an endpoint of a shared network, with what the cluster reserved for it.
func claimedEndpoint(t *txn.Tx, n *model.Network, spec model.EndpointSpec) (*model.Endpoint, error) {
	if spec.Claim == nil || spec.Claim.NetworkID != n.ID {
		return nil, NeedsCluster(n)
	}
	member := spec.Claim.Member
	id, err := chooseID(t.Next.EndpointsByPrefix, member.ID)
	if err != nil {
		return nil, err
	}
	ep := newEndpoint(id, n, spec)
	// Of an address that does not suit the network nothing was reserved; takeAddr refuses it.
	if a := cmp.Or(member.IPv4, spec.IPv4); a.IsValid() {
		if ep.IPv4, err = takeAddr(t, n, model.V4, a); err != nil {
			return nil, err
		}
	}
	if a := cmp.Or(member.IPv6, spec.IPv6); a.IsValid() {
		if ep.IPv6, err = takeAddr(t, n, model.V6, a); err != nil {
			return nil, err
		}
	}
	ep.MAC, err = chooseMAC(t, n, member.MAC, ep.IPv4.Addr())
	return ep, err
}

// ChooseIfName checks the name that the user requested, or chooses the first free one
// if it is "". Devices in the namespace that Fairlead does not know can still use the
// name; that is detected when the device is created.
func ChooseIfName(n *model.Network, sb *model.Sandbox, others []*model.Endpoint, want string) (string, error) {
	taken := func(name string) bool {
		return slices.ContainsFunc(others, func(o *model.Endpoint) bool { return o.IfName == name })
	}
	switch {
	case want == "":
		for i := 0; ; i++ {
			if name := fmt.Sprint(n.InterfacePrefix(), i); !taken(name) {
				return name, nil
			}
		}
	case !model.IsIfName(want) || slices.Contains(model.ReservedIfNames, want):
		return "", model.Refuse(model.ErrInvalid, "invalid interface name %q (want 1 to 15 letters, digits, and _ . -, and none of %s)", want, strings.Join(model.ReservedIfNames, ", "))
	case taken(want):
		return "", model.Refuse(model.ErrConflict, "sandbox %q already has an interface %s (choose another name)", sb.Name, want)
	}
	return want, nil
}

// chooseMAC checks the MAC that the user requested, or derives one from the IP address
// if it is zero, so that neighbour entries of the previous owner remain valid. A MAC must be
// unique in its network, because it is a key of the forwarding table.
func chooseMAC(t *txn.Tx, n *model.Network, want model.MAC, ip netip.Addr) (model.MAC, error) {
	if want.IsZero() {
		m := model.MACOf(ip)
		for m.IsZero() || macOwner(t, n, m) != "" {
			m = NewMAC()
		}
		return m, nil
	}
	if want[0]&1 != 0 {
		return want, model.Refuse(model.ErrInvalid, "MAC address %v is multicast (choose one whose first byte is even)", want)
	}
	if o := macOwner(t, n, want); o != "" {
		return want, model.Refuse(model.ErrConflict, "MAC address %v is already in use on network %s by %s (choose another --mac-address)",
			want, n.Name, o)
	}
	return want, nil
}

// macOwner names the owner of a hardware address in a network; "" if it has none.
func macOwner(t *txn.Tx, n *model.Network, m model.MAC) string {
	ep := desired.First(t.Next.MembersWithMAC(n.ID, m))
	svc := t.Next.ServiceWithMAC(n.ID, m)
	switch {
	case svc != nil:
		return "service " + svc.Name
	case m == n.GatewayMAC:
		return "the gateway"
	case ep == nil:
		return ""
	case ep.SandboxID == "":
		return "endpoint " + model.ShortID(ep.ID)
	}
	return t.Next.SandboxName(ep.SandboxID)
}

// takeAddr allocates an address of a family, the requested one if want is valid, and
// returns it with the subnet's length. The result is zero if the network does not have
// this family.
func takeAddr(t *txn.Tx, n *model.Network, f model.Family, want netip.Addr) (netip.Prefix, error) {
	subnets := n.SubnetsOf(f)
	if want.IsValid() {
		remedy := "has no " + f.String() + ", leave it out"
		if len(subnets) > 0 {
			remedy = "has " + prefixTexts(subnets) + ", choose one of it"
		}
		s, ok := n.SubnetWith(want)
		if !ok {
			return netip.Prefix{}, model.Refuse(model.ErrInvalid, "no configured subnet contains IP address %v (network %s %s)", want, n.Name, remedy)
		}
		subnets = []model.Subnet{s}
	}
	if len(subnets) == 0 {
		return netip.Prefix{}, nil
	}
	var s model.Subnet
	var pool *ipam.Pool
	a, err := want, error(nil)
	for _, s = range subnets { // the first one with a free address
		pool = t.Addresses(n.ID).Pool(s.Prefix.Addr())
		if want.IsValid() {
			err = pool.Reserve(want)
		} else {
			a, err = pool.Allocate()
		}
		if !errors.Is(err, ipam.ErrExhausted) {
			break
		}
	}
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		return netip.Prefix{}, model.Refuse(model.ErrExhausted, "no available %s addresses on this network's address pools: %s (%s); remove sandboxes from it, or create a larger network",
			f, n.Name, n.ID)
	case errors.Is(err, ipam.ErrTaken):
		return netip.Prefix{}, model.Refuse(model.ErrConflict, "Address already in use: %v belongs to %s of network %s (choose another, or none to get a free one)",
			want, addrOwner(t, n, s, want), n.Name)
	case err != nil:
		return netip.Prefix{}, model.Refuse(model.ErrInvalid, "%v: %v (it is the network or broadcast address of subnet %v; choose another)", want, err, s.Prefix)
	}
	t.OnUndo(func() { pool.Release(a) })
	return netip.PrefixFrom(a, s.Prefix.Bits()), nil
}

func prefixTexts(subnets []model.Subnet) string {
	var texts []string
	for _, s := range subnets {
		texts = append(texts, s.Prefix.String())
	}
	return strings.Join(texts, ", ")
}

func addrOwner(t *txn.Tx, n *model.Network, s model.Subnet, a netip.Addr) string {
	if a == s.Gateway {
		return "the gateway"
	}
	for name, x := range s.Aux {
		if x == a {
			return fmt.Sprintf("auxiliary address %q", name)
		}
	}
	if svc := t.Next.ServiceWithAddr(n.ID, a); svc != nil {
		return fmt.Sprintf("service %q", svc.Name)
	}
	if ep := t.Next.MemberWithAddr(n.ID, a); ep != nil {
		return fmt.Sprintf("sandbox %q", t.Next.SandboxName(ep.SandboxID))
	}
	return "another sandbox"
}

// RemoveEndpoint removes an endpoint. The caller updates the sandbox's gateway and
// publishes, see updateGateway.
func RemoveEndpoint(t *txn.Tx, ep *model.Endpoint) {
	ReleaseAddr(t, ep.NetworkID, ep.IPv4.Addr())
	ReleaseAddr(t, ep.NetworkID, ep.IPv6.Addr())
	t.PutEndpoint(ep.ID, nil)
	IdleIfUnused(t, ep.NetworkID)
}

// ReleaseAddr returns an address to a network's pool. It ignores the zero Addr.
func ReleaseAddr(t *txn.Tx, networkID string, a netip.Addr) {
	pool := t.Addresses(networkID).Pool(a)
	if pool == nil {
		return
	}
	pool.Release(a)
	// This cannot fail: nothing else allocates while the lock is held.
	t.OnUndo(func() { _ = pool.Reserve(a) })
}

// bandwidthOf returns the limits of an endpoint: its own, or else its network's.
func bandwidthOf(n *model.Network, spec model.EndpointSpec) model.Bandwidth {
	b := model.Bandwidth{Ingress: cmp.Or(spec.Bandwidth.Ingress, n.Bandwidth.Ingress)}
	if spec.EngineID == "" { // see limitOption
		b.Egress = cmp.Or(spec.Bandwidth.Egress, n.Bandwidth.Egress)
	}
	return b
}
