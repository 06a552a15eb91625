// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"cmp"
	"iter"

	"github.com/fairlead-net/fairlead/control/desired/persistent"
	"github.com/fairlead-net/fairlead/control/model"
)

// Change is one object that differs between two snapshots.
type Change[K, V any] struct {
	ID       K
	Old, New *V // nil: the object is not in that snapshot
}

// DiffNetworks yields the networks that differ, by ID. The zero Snapshot stands for nothing. So
// do the next three with objects of their kind.
func DiffNetworks(from, to *Snapshot) iter.Seq[Change[string, model.Network]] {
	return diff(from.networks.rows, to.networks.rows)
}

// DiffSandboxes yields the sandboxes that differ.
func DiffSandboxes(from, to *Snapshot) iter.Seq[Change[string, model.Sandbox]] {
	return diff(from.sandboxes.rows, to.sandboxes.rows)
}

// DiffEndpoints yields the endpoints that differ.
func DiffEndpoints(from, to *Snapshot) iter.Seq[Change[string, model.Endpoint]] {
	return diff(from.endpoints.rows, to.endpoints.rows)
}

// DiffPublishes yields the published ports that differ.
func DiffPublishes(from, to *Snapshot) iter.Seq[Change[uint32, model.Publish]] {
	return diff(from.publishes, to.publishes)
}

func diff[K cmp.Ordered, V any](from, to persistent.Map[K, *V]) iter.Seq[Change[K, V]] {
	return func(yield func(Change[K, V]) bool) {
		for c := range persistent.Diff(from, to) {
			if !yield(Change[K, V]{c.Key, c.Old, c.New}) {
				return
			}
		}
	}
}
