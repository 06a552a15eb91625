// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/dhcp"
	"github.com/fairlead-net/fairlead/control/model"
)

// Realizer is what changes the kernel's state, as in package txn.
type Realizer interface {
	Accept(ctx context.Context, s *desired.Snapshot) (apply func() error)
}

// Before returns a Realizer that releases the leases of endpoints that a change removes, before another one removes their
// devices.
func (k *Keeper) Before(next Realizer) Realizer {
	return &releaser{k: k, next: next, last: &desired.Snapshot{}}
}

type releaser struct {
	k    *Keeper
	next Realizer
	last *desired.Snapshot
}

// Accept implements [Realizer]. The lock of the desired state guards it.
func (r *releaser) Accept(ctx context.Context, s *desired.Snapshot) func() error {
	var leaving []leaver
	for c := range desired.DiffEndpoints(r.last, s) {
		if c.New != nil || c.Old.Lease == nil || !c.Old.IPv4.IsValid() {
			continue
		}
		sb, n := r.last.Sandbox(c.Old.SandboxID), r.last.Network(c.Old.NetworkID)
		if sb != nil && n != nil {
			leaving = append(leaving, leaver{place(sb, n, c.Old), c.Old.Lease})
		}
	}
	r.last = s
	apply := r.next.Accept(ctx, s)
	if len(leaving) == 0 {
		return apply
	}
	return func() error {
		for _, l := range leaving {
			if err := r.k.cfg.Client.Release(l.at, l.lease); err != nil {
				r.k.cfg.Log.Debug("cannot release a lease, which the server keeps until it ends", "address", l.lease.Address.Addr(), "err", err)
			}
		}
		err := apply()
		if err != nil {
			r.k.doubt(leaving)
		}
		return err
	}
}

// leaver is an endpoint that leaves.
type leaver struct {
	at    dhcp.Endpoint
	lease *model.Lease
}

// doubt has the leases of endpoints confirmed whose removal failed after their release.
func (k *Keeper) doubt(list []leaver) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range list {
		if e := k.entries[l.at.ID]; e != nil {
			e.confirmed, e.due = false, k.cfg.Now()
		}
	}
	k.wakeUp()
}
