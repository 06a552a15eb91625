// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// encrypted returns the desired state with n1 encrypted and n2 not, as long as n1 exists.
func encrypted(exists bool) *desired.Snapshot {
	edit := snapshot(11, 12).Edit()
	edit.PutNetwork("n1", nil)
	if exists {
		edit.PutNetwork("n1", &model.Network{ID: "n1", Name: "n1", Driver: model.DriverOverlay, Encrypted: true, Local: model.Local{Index: 11}})
	}
	return edit.Done()
}

func keyed(id string, number uint16, key byte) kv.Op {
	return kv.Put(layout.NodeKey(id), layout.Encode(model.Node{
		ID: id, Name: "node-" + id, Number: number, VTEP4: netip.AddrFrom4([4]byte{10, 98, 0, byte(100 + number)}),
		WireGuardKey: model.PublicKey{key}, WireGuardPort: 61820,
	}))
}

// TestEncryption follows the nodes of an encrypted network: the peers of the device are those with a key, and
// members are reached by it. A network that is not encrypted has other entries for the same nodes.
func TestEncryption(t *testing.T) {
	w := newWorld(t)
	w.commit(nodeRecord("self", 1), keyed("b", 2, 20), nodeRecord("c", 3))
	w.commit(chunkOf("n1", "b", 0, member(2)), chunkOf("n1", "c", 0, member(3)), chunkOf("n2", "b", 0, member(2)))
	w.start(11, 12)
	w.is(11, 2, 2)
	w.mu.Lock()
	if w.encrypting {
		t.Error("there is a device without an encrypted network")
	}
	w.mu.Unlock()
	w.stop()
	w.start(12)
	w.Peers.Update(encrypted(true))
	w.is(11, 2, 2+maps.EncryptedNode)
	w.is(11, 3, 3+maps.EncryptedNode)
	w.is(12, 2, 2)
	state := func(what string, peers map[model.PublicKey]bool) {
		t.Helper()
		w.eventually(what, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			for key := range peers {
				inside := w.addrs[key.TunnelAddr()]
				n := w.nodes[inside]
				if w.peers[key] == (netip.AddrPort{}) || w.peers[key].Addr() != w.nodes[inside-maps.EncryptedNode].Remote || !n.Encrypted ||
					n.IfIndex != 70 || n.Remote != key.TunnelAddr() || n.Local != (model.PublicKey{1}).TunnelAddr() || n.MTU != 1440-70 {
					return false
				}
			}
			return w.encrypting && len(w.peers) == len(peers) && len(w.nodes) == 2+len(peers) && len(w.addrs) == 2+len(peers)
		})
	}
	b, c := model.PublicKey{20}, model.PublicKey{30}
	state("b is a peer, and c has no key", map[model.PublicKey]bool{b: true})
	w.commit(keyed("c", 3, 30))
	state("c has a key", map[model.PublicKey]bool{b: true, c: true})
	w.commit(keyed("b", 2, 21))
	state("b has another key", map[model.PublicKey]bool{{21}: true, c: true})
	w.commit(kv.Delete(layout.NodeKey("c")))
	w.eventually("c was removed", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.peers) == 1 && len(w.nodes) == 2
	})
	w.mu.Lock()
	w.refused = errors.New("no WireGuard")
	w.mu.Unlock()
	w.commit(keyed("b", 2, 22))
	w.eventually("the error is known", func() bool { return w.Peers.EncryptionError() != nil })
	w.Peers.Update(encrypted(false))
	w.eventually("no encrypted network", func() bool {
		if w.Peers.EncryptionError() != nil {
			return false
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.encrypting && len(w.nodes) == 1 && len(w.addrs) == 1
	})
}
