// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"context"

	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// watchHost watches the host until ctx ends.
func (l *Loop) watchHost(ctx context.Context) error {
	return watch.Host(ctx, l.state.NL, watch.Listener{
		Changed: func() { wake(l.changed) },
		FilterRemoved: func(ifindex int) {
			if l.state.Programs.Suspect(ifindex) {
				wake(l.changed)
			}
		},
		Link: func(link rtnl.Link) {
			if l.state.Uplinks.IsNew(link) {
				l.uplinks.note(link.Index)
			}
		},
		Addr: l.uplinks.note,
	})
}

// uplinkQueueLen bounds the queue of devices that may be new uplinks.
const uplinkQueueLen = 64

// uplinks attaches programs to new uplinks without waiting for the next check: until they
// are attached, packets of flows would reach the host's stack.
type uplinks struct {
	state    *pass.State
	host     *check.Host
	promoter *Promoter
	appeared chan uint32 // devices that may be new uplinks
}

func newUplinks(s *pass.State, host *check.Host, promoter *Promoter) *uplinks {
	return &uplinks{state: s, host: host, promoter: promoter, appeared: make(chan uint32, uplinkQueueLen)}
}

// note records a device that may be a new uplink.
func (u *uplinks) note(index uint32) {
	select {
	case u.appeared <- index:
	default: // the next check finds it
	}
}

// attach attaches programs until ctx ends.
func (u *uplinks) attach(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case index := <-u.appeared:
			if link, err := u.state.NL.Link(index); err != nil || link.Ours() {
				continue // deleted, or a gateway
			}
			if err := u.host.AttachUplinks(ctx); err != nil {
				u.state.Log.Debug("cannot attach to new uplinks before the next check", "err", err)
			}
			u.promoter.Wake()
		}
	}
}
