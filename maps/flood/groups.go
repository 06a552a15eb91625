// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/transfer"
)

// Groups is fl_group: the multicast groups that nodes listen to, by network and node, node 0 being
// this one. The control plane makes and removes entries (see [Nodes]); the datapath writes
// what is in them.
type Groups struct{ m *ebpf.Map }

// Heard is what is known of the listeners of a network on this node. Times are CLOCK_MONOTONIC in
// seconds, 0 for never. First index: 0 IPv4, 1 IPv6.
type Heard struct {
	Asked [2][3]uint32 // when the last queries of the node came, the latest first
	Full  [2]uint32    // when a group found no room
	Left  [2]uint32    // when a member left a group
}

// Here reads what is known of the members of a network on this node, and reports whether there is an entry.
func (t *Groups) Here(net uint32) (h Heard, ok bool, err error) {
	var v bpf.TCGroups
	switch err := t.m.Lookup(bpf.TCGroupsKey{Net: net}, &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return Heard{}, false, nil
	case err != nil:
		return Heard{}, false, fmt.Errorf("read table %s: %w", bpf.TCMapFlGroup, err)
	}
	return Heard{Asked: v.Asked, Full: v.Full, Left: v.Left}, true, nil
}

// follow makes and removes the entries of a network for another list of nodes, and keeps those that are
// right: what the datapath has heard stays. A node without an entry receives everything, so a full table
// is not an error.
func (t *Groups) follow(net uint32, before, now []uint16) error {
	keep := make(map[uint16]bool, len(now)+1)
	for _, node := range now {
		keep[node] = true
	}
	keep[0] = len(now) > 0
	var errs []error
	for _, node := range append([]uint16{0}, before...) {
		if keep[node] {
			continue
		}
		if err := t.m.Delete(bpf.TCGroupsKey{Net: net, Node: uint32(node)}); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete from table %s: %w", bpf.TCMapFlGroup, err))
		}
	}
	for node := range keep {
		if !keep[node] {
			continue
		}
		err := t.m.Update(bpf.TCGroupsKey{Net: net, Node: uint32(node)}, bpf.TCGroups{}, ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) && !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ENOMEM) {
			errs = append(errs, fmt.Errorf("write to table %s: %w", bpf.TCMapFlGroup, err))
		}
	}
	return errors.Join(errs...)
}

// Count returns the number of entries. It walks the table.
func (t *Groups) Count() (int, error) { return transfer.Count(t.m) }

// MaxEntries returns the table's capacity in entries.
func (t *Groups) MaxEntries() int { return int(t.m.MaxEntries()) }
