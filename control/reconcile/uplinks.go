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

// linger is how long an address that is gone keeps its flows, and a device that lost all that
// made it an uplink its programs: what goes down, is made anew or gets its addresses anew is
// back by then, and so the flows never meet the host's stack, which would reset them. While a
// device is down, the time does not pass.
const linger = 10 * time.Second

// lostAddrs are addresses that the host had.
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

// expired forgets the addresses that are back, and returns, to forget them too, those that
// will not come back.
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

// addrs are those addresses, as ones that cannot be used just now.
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

// keptUplinks are names of devices that are uplinks, or were a moment ago. It is asked by the
// watch, which does not wait for passes.
type keptUplinks struct {
	mu     sync.Mutex
	byName map[string]keptUplink
}

type keptUplink struct {
	index uint32    // of the device with programs
	last  time.Time // when it was an uplink by its own right
}

// note remembers the uplinks there are.
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

// isNew reports whether a device bears the name of an uplink, or a pinned one, and is not
// known.
func (k *keptUplinks) isNew(l rtnl.Link, pinned []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, ok := k.byName[l.Name]
	return (ok || slices.Contains(pinned, l.Name)) && kept.index != l.Index
}

// uplinkPlaces are where programs shall be attached at uplinks, in the order that lets
// nothing of a flow arrive at the host's stack.
func (r *Reconciler) uplinkPlaces() (list []place) {
	for _, u := range r.uplinks {
		if !u.ReceivesBelow {
			list = append(list, place{int(u.IfIndex), loader.FromUplink})
		}
	}
	for _, u := range r.uplinks {
		list = append(list, place{int(u.IfIndex), loader.ToUplink})
	}
	return list
}

// uplinkQueueLen are devices that may be uplinks which are new, for uplinkLoop.
const uplinkQueueLen = 64

// watchHost has the kernel send of changes until ctx ends: of those that can make an uplink,
// uplinkLoop; of the rest, changed.
func (r *Reconciler) watchHost(ctx context.Context, changed chan<- struct{}, uplinks chan<- uint32) error {
	send := func(index uint32) {
		select {
		case uplinks <- index:
		default: // the check that changed asks for sees it
		}
	}
	return r.nl.Watch(ctx, rtnl.Listener{
		Changed: func() { wake(changed) },
		Unfiltered: func(ifindex int) {
			if r.suspects.add(ifindex) {
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

// uplinkLoop attaches programs to new uplinks without waiting for the next check: until then
// packets of flows would meet the host's stack.
func (r *Reconciler) uplinkLoop(ctx context.Context, uplinks <-chan uint32) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-uplinks:
			if l, err := r.nl.Link(index); err != nil || l.Ours() {
				continue // gone, or a gateway
			}
			if err := r.attachUplinks(ctx); err != nil {
				r.log.Debug("new uplinks wait for the next check", "err", err)
			}
		}
	}
}

// attachUplinks finds the uplinks and attaches their programs where there are none.
func (r *Reconciler) attachUplinks(ctx context.Context) error {
	if !r.started() {
		return nil
	}
	s, err := r.readHostLocked()
	defer r.mu.Unlock()
	if err != nil {
		return err
	}
	p, err := r.newPass(ctx, r.snap)
	if err != nil {
		return err
	}
	p.repair, p.hostState = true, s
	errs := []error{p.checkUplinks()}
	for _, at := range r.uplinkPlaces() {
		if !r.attached[at] {
			_, err := r.attachAt(at, true)
			errs = append(errs, err)
		}
	}
	if len(r.unpromoted) > 0 {
		wake(r.promote)
	}
	return errors.Join(errs...)
}
