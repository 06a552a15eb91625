// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"

	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// checkUplinks finds the uplinks and the host's addresses and updates their tables.
func (p *pass) checkUplinks() error {
	restored, lost, err := p.r.uplinks.Check(&p.host.State, uplinks.Networks{All: p.r.wantedNetworks(), HostPorts: p.r.usableNetworks()})
	p.count(RepairEntry, restored)
	for _, a := range lost {
		p.flows.addr(a)
	}
	p.dropFlows()
	return err
}

// writeHostAddrs writes the table of the host's addresses after networks changed.
func (p *pass) writeHostAddrs() error {
	restored, err := p.r.uplinks.WriteAddrs(p.r.usableNetworks())
	p.count(RepairEntry, restored)
	return err
}

// uplinkQueueLen bounds the queue of possible new uplinks for uplinkLoop.
const uplinkQueueLen = 64

// watchHost watches the host until ctx ends. It sends possible new uplinks to uplinks, for
// uplinkLoop, and wakes changed for everything else.
func (r *Reconciler) watchHost(ctx context.Context, changed chan<- struct{}, uplinks chan<- uint32) error {
	send := func(index uint32) {
		select {
		case uplinks <- index:
		default: // the check that changed wakes finds it
		}
	}
	return r.nl.Watch(ctx, rtnl.Listener{
		Changed: func() { wake(changed) },
		FilterRemoved: func(ifindex int) {
			if r.attachments.suspects.add(ifindex) {
				wake(changed)
			}
		},
		Link: func(l rtnl.Link) {
			if r.uplinks.IsNew(l) {
				send(l.Index)
			}
		},
		Addr: send,
	})
}

// uplinkLoop attaches programs to new uplinks without waiting for the next check: until they are
// attached, packets of flows would reach the host's stack.
func (r *Reconciler) uplinkLoop(ctx context.Context, uplinks <-chan uint32) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-uplinks:
			if l, err := r.nl.Link(index); err != nil || l.Ours() {
				continue // deleted, or a gateway
			}
			if err := r.attachUplinks(ctx); err != nil {
				r.log.Debug("cannot attach to new uplinks before the next check", "err", err)
			}
		}
	}
}

// attachUplinks finds the uplinks and attaches missing programs.
func (r *Reconciler) attachUplinks(ctx context.Context) error {
	if !r.started() {
		return nil
	}
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	p, err := r.newPass(ctx, r.snap, s)
	if err != nil {
		return err
	}
	p.repair = true
	err = errors.Join(p.checkUplinks(), r.attachments.attachNew(r.uplinks.Places()))
	r.attachments.wakePromoter()
	return err
}
