// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// Virtual is a commit that takes or releases virtual addresses of a shared network, together with the
// record of the service that has them. They are held by the service and by no node.
type Virtual struct {
	b *batch
	n *model.Network
}

// NewVirtual begins a commit. It fails if the network does not exist, and so does the commit if the
// network is removed meanwhile.
func NewVirtual(ctx context.Context, s kv.Store, n *model.Network) (*Virtual, error) {
	v := &Virtual{newBatch(s), n}
	return v, v.b.requireNetwork(ctx, n)
}

// Take takes an address for a service: the wanted one, or a free one. It returns the zero Addr if the
// network does not have the family.
func (v *Virtual) Take(ctx context.Context, f model.Family, want netip.Addr, service string) (netip.Addr, error) {
	s, ok := v.n.Subnet(f)
	if !ok || want.IsValid() && !s.Prefix.Contains(want) {
		return want, nil // resource.AddService refuses a wanted address
	}
	p, err := poolOf(s)
	if err != nil {
		return netip.Addr{}, err
	}
	by := model.AddressHolder{Service: service, Since: time.Now().UTC()}
	if want.IsValid() {
		return want, v.takeWanted(ctx, p, want, by)
	}
	from := p.start(service)
	a, err := v.b.allocate(ctx, v.n.ID, p, &from, by)
	if errors.Is(err, ipam.ErrExhausted) {
		err = model.Refuse(model.ErrExhausted, "no available %s addresses on this network's address pools: %s (%s); remove sandboxes from it, on any node, or create a larger network", f, v.n.Name, v.n.ID)
	}
	return a, err
}

func (v *Virtual) takeWanted(ctx context.Context, p *pool, want netip.Addr, by model.AddressHolder) error {
	if !p.usable.IsFree(want) {
		return nil // resource.AddService refuses it
	}
	s, err := v.b.shard(ctx, v.n.ID, want)
	if err != nil {
		return err
	}
	if holder, held := s.Held[want]; held && holder.Service != by.Service {
		var node model.Node
		name := model.ShortID(holder.Node)
		if _, err := layout.Load(ctx, v.b.store, layout.NodeKey(holder.Node), &node); err == nil && node.Name != "" {
			name = node.Name
		}
		return refuseHeld(v.n, want, holder, name)
	}
	s.hold(want, by)
	return nil
}

// Release releases an address of a service.
func (v *Virtual) Release(ctx context.Context, a netip.Addr, service string) error {
	if !a.IsValid() {
		return nil
	}
	s, err := v.b.shard(ctx, v.n.ID, a)
	if err == nil && s.Held[a].Service == service {
		s.release(a)
	}
	return err
}

// Commit changes the addresses, and these records if the conditions hold.
func (v *Virtual) Commit(ctx context.Context, conds []kv.Cond, ops ...kv.Op) error {
	v.b.conds = append(v.b.conds, conds...)
	v.b.ops = append(v.b.ops, ops...)
	return v.b.commit(ctx)
}
