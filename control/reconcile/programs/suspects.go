// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"sync"

	"github.com/fairlead-net/fairlead/control/reconcile/device"
)

// suspects are devices, by index, that lost a clsact filter, which may have been another
// program's.
type suspects struct {
	mu       sync.Mutex
	devices  map[int]bool
	expected map[int]bool // devices whose next removed filter is one that Fairlead removes
}

// add records a removed filter, and reports whether a check is needed.
func (s *suspects) add(ifindex int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expected[ifindex] {
		delete(s.expected, ifindex)
		return false
	}
	if s.devices == nil {
		s.devices = make(map[int]bool)
	}
	s.devices[ifindex] = true
	return true
}

// expectRemoval announces that Fairlead is about to remove a filter.
func (s *suspects) expectRemoval(ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expected == nil {
		s.expected = make(map[int]bool)
	}
	s.expected[ifindex] = true
}

// take returns the suspects, and keeps those for the next time that have busy places.
func (s *suspects) take(busy map[device.Place]bool) map[int]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices, kept := s.devices, make(map[int]bool)
	for at := range busy {
		if devices[at.IfIndex] {
			kept[at.IfIndex] = true
		}
	}
	for index := range kept {
		delete(devices, index)
	}
	s.devices = kept
	return devices
}
