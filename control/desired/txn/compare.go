// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
)

// Compare returns an error if an index of s differs from that of another state, which should
// hold the same objects. Tests compare a state with one that is loaded from its store.
func (s *State) Compare(with *State) error {
	for id, a := range s.addrs {
		b := with.addrs[id]
		if b == nil || !slices.EqualFunc(a.All(), b.All(), sameFree) {
			return fmt.Errorf("address pools of network %s differ", model.ShortID(id))
		}
	}
	if len(s.addrs) != len(with.addrs) {
		return fmt.Errorf("%d networks have address pools, want %d", len(s.addrs), len(with.addrs))
	}
	for id, p := range with.pools {
		if !sameFree(s.pools[id], p) {
			return fmt.Errorf("pool %s differs", id)
		}
	}
	have := 0
	for p := range s.Snapshot().Pools() {
		if p.NetworkID == "" { // those of shared networks have none
			have++
		}
	}
	if len(s.pools) != have {
		return fmt.Errorf("%d pools have an allocator, want %d", len(s.pools), have)
	}
	if have, want := s.ports.Count(), with.ports.Count(); !maps.Equal(have, want) {
		return fmt.Errorf("host ports %v are claimed, want %v", have, want)
	}
	return nil
}

// sameFree reports whether two pools have the same number of free addresses. Either may be nil.
func sameFree(a, b *ipam.Pool) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Free() == b.Free())
}
