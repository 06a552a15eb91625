// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/control/model"
)

// Addresses holds the pools of one network, one for each subnet.
type Addresses struct{ pools []*Pool }

// Pool returns the pool whose subnet contains an address; nil if there is none.
func (a *Addresses) Pool(addr netip.Addr) *Pool {
	for _, p := range a.pools {
		if p.prefix.Contains(addr) {
			return p
		}
	}
	return nil
}

// All returns the pools in the order of the network's subnets.
func (a *Addresses) All() []*Pool { return a.pools }

// ForNetwork returns the pools of a network's subnets.
func ForNetwork(n *model.Network) (*Addresses, error) {
	var a Addresses
	for _, s := range n.Subnets {
		pool, err := ForSubnet(s)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", n.Name, err)
		}
		if own := n.NodeAddr(model.FamilyOf(s.Prefix.Addr())); n.HostAccess && s.Prefix.Contains(own) {
			if err := reserve(pool, s, "the host's address", own); err != nil {
				return nil, fmt.Errorf("network %q: %w", n.Name, err)
			}
		}
		a.pools = append(a.pools, pool)
	}
	return &a, nil
}

// ForSubnet returns the pool of a subnet, with its gateway and auxiliary addresses reserved.
func ForSubnet(s model.Subnet) (*Pool, error) {
	pool, err := NewPool(s.Prefix, s.IPRange)
	if err != nil {
		return nil, err
	}
	if s.Gateway.IsValid() {
		if err := reserve(pool, s, "gateway", s.Gateway); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
		if err := reserve(pool, s, "auxiliary address "+name, s.Aux[name]); err != nil {
			return nil, err
		}
	}
	return pool, nil
}

func reserve(pool *Pool, s model.Subnet, what string, a netip.Addr) error {
	err := pool.Reserve(a)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTaken):
		return model.Refuse(model.ErrInvalid, "%s %v: Address already in use (by the gateway or another auxiliary address of %v)", what, a, s.Prefix)
	}
	return model.Refuse(model.ErrInvalid, "%s %v: %v (choose another one of %v)", what, a, err, s.Prefix)
}

// ForEngine returns the allocator of an engine's pool. It continues after the address that was
// allocated last.
func ForEngine(p *model.AddressPool) (*Pool, error) {
	pool, err := NewPool(p.Prefix, p.IPRange)
	if err != nil {
		return nil, err
	}
	for _, a := range p.Taken {
		if err := pool.Reserve(a); err != nil {
			return nil, fmt.Errorf("address %v of pool %v: %w", a, p.Prefix, err)
		}
		pool.Resume(a)
	}
	return pool, nil
}
