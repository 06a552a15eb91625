// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/loader"
)

// linger is how long flows outlive their host address, and programs a device that stopped being
// an uplink. A device that goes down, is recreated or gets its addresses again is back by then,
// so that the flows never reach the host's stack, which would reset them. The time does not count
// while the device is down.
const linger = 10 * time.Second

// lostAddrs are addresses that the host no longer has.
type lostAddrs map[netip.Addr]lostAddr

type lostAddr struct {
	device uint32 // that had it
	since  time.Time
}

func (m *lostAddrs) add(a netip.Addr, device uint32) {
	if *m == nil {
		*m = make(lostAddrs)
	}
	(*m)[a] = lostAddr{device, time.Now()}
}

// expired removes the addresses that are back from m, and removes and returns those that were
// lost for longer than linger.
func (m lostAddrs) expired(now map[netip.Addr]uint32, links []rtnl.Link, linger time.Duration) (list []netip.Addr) {
	for a, lost := range m {
		if _, ok := now[a]; ok {
			delete(m, a)
			continue
		}
		if isDown(links, func(l rtnl.Link) bool { return l.Index == lost.device }) {
			m[a] = lostAddr{lost.device, time.Now()}
		} else if time.Since(lost.since) > linger {
			delete(m, a)
			list = append(list, a)
		}
	}
	return list
}

// addrs returns these addresses, marked as tentative.
func (m lostAddrs) addrs() []rtnl.Addr {
	list := make([]rtnl.Addr, 0, len(m))
	for a, lost := range m {
		list = append(list, rtnl.Addr{
			IfIndex: lost.device, Prefix: netip.PrefixFrom(a, a.BitLen()),
			Scope: unix.RT_SCOPE_UNIVERSE, Flags: unix.IFA_F_TENTATIVE,
		})
	}
	slices.SortFunc(list, func(a, b rtnl.Addr) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return list
}

func isDown(links []rtnl.Link, which func(rtnl.Link) bool) bool {
	return slices.ContainsFunc(links, func(l rtnl.Link) bool { return !l.Up && which(l) })
}

// keptUplinks are names of devices that are uplinks, or were within linger. The watch reads it
// and does not wait for passes, so it has its own lock.
type keptUplinks struct {
	mu     sync.Mutex
	byName map[string]keptUplink
}

type keptUplink struct {
	index uint32    // of the device with programs
	last  time.Time // when it last was an uplink by its own addresses or routes
}

// note records the current uplinks.
func (k *keptUplinks) note(ups []rtnl.Uplink, links []rtnl.Link, linger time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byName == nil {
		k.byName = make(map[string]keptUplink)
	}
	now := time.Now()
	for _, u := range ups {
		kept := keptUplink{u.IfIndex, now}
		if u.Kept && !isDown(links, func(l rtnl.Link) bool { return l.Index == u.IfIndex }) {
			kept.last = k.byName[u.Name].last
		}
		k.byName[u.Name] = kept
	}
	for name, kept := range k.byName {
		if now.Sub(kept.last) > linger {
			delete(k.byName, name)
		}
	}
}

func (k *keptUplinks) names() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := make(map[string]bool)
	for name := range k.byName {
		names[name] = true
	}
	return names
}

// isNew reports whether a device has the name of an uplink, or a pinned name, and is not known
// yet.
func (k *keptUplinks) isNew(l rtnl.Link, pinned []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, ok := k.byName[l.Name]
	return (ok || slices.Contains(pinned, l.Name)) && kept.index != l.Index
}

// uplinkPlaces returns where programs should be attached at uplinks, in an order in which no
// packet of a flow reaches the host's stack.
func (r *Reconciler) uplinkPlaces() (list []place) {
	for _, u := range r.uplinks {
		if !u.ReceivesBelow {
			list = append(list, place{IfIndex: int(u.IfIndex), Hook: loader.FromUplink})
		}
	}
	for _, u := range r.uplinks {
		list = append(list, place{IfIndex: int(u.IfIndex), Hook: loader.ToUplink})
	}
	return list
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
			if r.kept.isNew(l, r.cfg.Uplinks) {
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
	err = errors.Join(p.checkUplinks(), r.attachments.attachNew(r.uplinkPlaces()))
	r.attachments.wakePromoter()
	return err
}
