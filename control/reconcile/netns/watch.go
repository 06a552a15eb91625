// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"sync"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// SetWatch sets the watch that sandboxes are added to when they are configured, or nil. The
// sandboxes that were added to another watch are to be forgotten with Unwatch.
func (s *Namespaces) SetWatch(w *watch.Sandboxes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = w
}

// add adds a sandbox to the watch. A sandbox that cannot be added is still checked in its turn.
func (s *Namespaces) add(b *Sandbox, ns *rtnl.NetNS) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.watch == nil {
		return
	}
	number, err := s.watch.Add(ns)
	if err != nil {
		s.log.Warn("cannot watch the sandbox; changes in it are noticed late", "sandbox", b.Want.Name, "id", model.ShortID(b.ID), "err", err)
	}
	b.number, b.in, b.watched = number, s.watch, err == nil && number >= 0
}

// Unwatch records that the sandbox is not watched.
func (b *Sandbox) Unwatch() { b.watched = false }

// Number returns the sandbox's number in the watch, if it is watched.
func (b *Sandbox) Number() (number int32, watched bool) { return b.number, b.watched }

// Events are events from the network namespaces of sandboxes that are not handled yet.
type Events struct {
	Ready chan struct{} // gets a token when there are some

	mu      sync.Mutex
	changed map[int32]bool // numbers in the watch
	lost    bool           // any sandbox may have changed
}

// NewEvents returns Events.
func NewEvents() *Events {
	return &Events{Ready: make(chan struct{}, 1), changed: make(map[int32]bool)}
}

// Note records an event.
func (n *Events) Note(number int32) {
	n.mu.Lock()
	n.changed[number] = true
	n.mu.Unlock()
	n.Wake()
}

// Missed records that events were lost.
func (n *Events) Missed() {
	n.mu.Lock()
	n.lost = true
	n.mu.Unlock()
	n.Wake()
}

// Wake puts a token into Ready unless it has one.
func (n *Events) Wake() {
	select {
	case n.Ready <- struct{}{}:
	default:
	}
}

// Take returns the events since the last call.
func (n *Events) Take() (changed map[int32]bool, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed, lost = n.changed, n.lost
	n.changed, n.lost = make(map[int32]bool), false
	return changed, lost
}
