// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

// TestAggregation follows the nodes of networks that are not encrypted: each family that a node is reached by has a
// device, while there is such a network.
func TestAggregation(t *testing.T) {
	w := newWorld(t)
	w.commit(nodeRecord("self", 1), nodeRecord("b", 2))
	w.start(11)
	state := func(what string, want ...model.Family) {
		t.Helper()
		w.eventually(what, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Equal(w.aggregated, want)
		})
	}
	state("a network, and a node by IPv4", model.V4)
	w.commit(kv.Put(layout.NodeKey("c"), layout.Encode(model.Node{ID: "c", Name: "c", Number: 3, VTEP6: netip.MustParseAddr("fd00:98::3")})))
	w.eventually("another node by IPv6", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.aggregated) == 2
	})
	w.commit(kv.Delete(layout.NodeKey("c")))
	state("that node was removed", model.V4)
	w.Peers.Update(snapshot())
	state("no network")
	edit := snapshot().Edit()
	edit.PutNetwork("n1", &model.Network{ID: "n1", Name: "n1", Driver: model.DriverOverlay, Encrypted: true, Local: model.Local{Index: 11}})
	w.Peers.Update(edit.Done())
	w.commit(nodeRecord("d", 4)) // the nodes are written again
	w.eventually("an encrypted network", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.nodes) == 2 && len(w.aggregated) == 0
	})
}
