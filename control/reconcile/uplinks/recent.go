// SPDX-License-Identifier: Apache-2.0

package uplinks

import (
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/uplink"
)

// recent are names of devices that are uplinks, or were within linger. The watch reads it
// and does not wait for passes, so it has its own lock.
type recent struct {
	mu     sync.Mutex
	byName map[string]recentUplink
}

type recentUplink struct {
	index uint32    // of the device with programs
	last  time.Time // when it last was an uplink by its own addresses or routes
}

// note records the current uplinks.
func (k *recent) note(ups []uplink.Uplink, links []rtnl.Link, linger time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byName == nil {
		k.byName = make(map[string]recentUplink)
	}
	now := time.Now()
	for _, u := range ups {
		kept := recentUplink{u.IfIndex, now}
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

func (k *recent) names() map[string]bool {
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
func (k *recent) isNew(l rtnl.Link, pinned []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, ok := k.byName[l.Name]
	return (ok || slices.Contains(pinned, l.Name)) && kept.index != l.Index
}
