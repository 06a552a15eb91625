// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

func TestOverlayRoundTrip(t *testing.T) {
	w := newWorld(t)
	vnis := []VNI{{VNI: 4097, Net: 3}, {VNI: 1<<24 - 1, Net: 4, Encrypted: true}}
	tunnels := []Tunnel{
		{Net: 3, VNI: 4097, MTU: 1450, NodeMAC: MAC{2, 0x42, 10, 1, 0, 9}, GatewayMAC: MAC{2, 0x42, 10, 1, 0, 1}, HostPortIf: 12},
		{Net: 4, VNI: 1<<24 - 1, Encrypted: true},
	}
	nodes := []Node{
		{ID: 1, Local: addr("192.0.2.1"), Remote: addr("198.51.100.2"), IfIndex: 2, MTU: 1450, Below: 1},
		{ID: MaxNode + EncryptedNode, Local: addr("fd00::1"), Remote: addr("fd00::2"), Encrypted: true},
	}
	addrs := []NodeAddr{{addr("198.51.100.2"), 1}, {addr("fd00::2"), MaxNode + EncryptedNode}}
	for _, v := range vnis {
		must(t, put(w.VNIs.Put(v)))
	}
	for _, v := range tunnels {
		must(t, put(w.Tunnels.Put(v)))
	}
	for i := range nodes {
		must(t, put(w.Nodes.Put(nodes[i])), put(w.NodeAddrs.Put(addrs[i])))
	}
	must(t, w.VNIs.Refresh(), w.Tunnels.Refresh(), w.Nodes.Refresh(), w.NodeAddrs.Refresh())
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"vni", w.VNIs.List(), vnis},
		{"tunnel", w.Tunnels.List(), tunnels},
		{"node", w.Nodes.List(), nodes},
		{"address", w.NodeAddrs.List(), addrs},
	} {
		if diff := cmp.Diff(tt.want, tt.got, byText()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	for name, f := range map[string]func() (bool, error){
		"vni":     func() (bool, error) { return w.VNIs.Delete(4097) },
		"tunnel":  func() (bool, error) { return w.Tunnels.Delete(3) },
		"node":    func() (bool, error) { return w.Nodes.Delete(1) },
		"address": func() (bool, error) { return w.NodeAddrs.Delete(addr("fd00::2")) },
	} {
		for _, want := range []bool{true, false} {
			if ok, err := f(); ok != want || err != nil {
				t.Errorf("delete %s = %v, %v; want %v", name, ok, err, want)
			}
		}
	}
}

func byText() cmp.Options {
	return cmp.Options{equateAddrs, cmpopts.SortSlices(func(a, b fmt.Stringer) bool { return a.String() < b.String() })}
}

// Members on other nodes are written and read without a copy in this process.
func TestPeers(t *testing.T) {
	w := newWorld(t)
	m1, m2 := MAC{2, 0x42, 10, 1, 0, 2}, MAC{2, 0x42, 10, 1, 0, 3}
	fdb := []PeerFDBEntry{{3, m1, 1, false}, {3, m2, 2, true}, {4, m1, 2, false}}
	neighbours := []PeerNeighbour{{3, addr("10.1.0.2"), m1, 1}, {3, addr("fd00::2"), m1, 1}}
	for _, n := range neighbours {
		must(t, w.PeerNeighbours.Put(n))
	}
	if n, err := w.PeerFDB.PutAll(fdb); n != len(fdb) || err != nil {
		t.Fatalf("PutAll = %d, %v", n, err)
	}
	moved := PeerFDBEntry{3, m2, 7, false}
	must(t, w.PeerFDB.Put(moved))
	fdb[1] = moved
	var gotFDB []PeerFDBEntry
	must(t, w.PeerFDB.Walk(func(e PeerFDBEntry) bool { gotFDB = append(gotFDB, e); return true }))
	var gotNeighbours []PeerNeighbour
	must(t, w.PeerNeighbours.Walk(func(n PeerNeighbour) bool { gotNeighbours = append(gotNeighbours, n); return true }))
	if diff := cmp.Diff(fdb, gotFDB, byText()); diff != "" {
		t.Errorf("fdb (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(neighbours, gotNeighbours, byText()); diff != "" {
		t.Errorf("neighbours (-want +got):\n%s", diff)
	}
	if e, ok, err := w.PeerFDB.Get(3, m2); e != moved || !ok || err != nil {
		t.Errorf("Get = %v, %t, %v", e, ok, err)
	}
	if _, ok, err := w.PeerNeighbours.Get(4, addr("10.1.0.2")); ok || err != nil {
		t.Errorf("Get of an absent neighbour = %t, %v", ok, err)
	}
	for _, want := range []bool{true, false} {
		if ok, err := w.PeerFDB.Delete(3, m1); ok != want || err != nil {
			t.Errorf("Delete = %t, %v; want %t", ok, err, want)
		}
		if ok, err := w.PeerNeighbours.Delete(3, addr("fd00::2")); ok != want || err != nil {
			t.Errorf("Delete = %t, %v; want %t", ok, err, want)
		}
	}
	if n, err := w.PeerFDB.Count(); n != 2 || err != nil {
		t.Errorf("Count = %d, %v", n, err)
	}
}

// A full table is reported like any other.
func TestPeersFull(t *testing.T) {
	spec := mustSpecs(t)[bpf.TCMapFlPeerFdb]
	spec.MaxEntries = 2
	ended := 0 // how often decisions were
	p := peers[bpf.TCFdbKey, bpf.TCFdbEntry, PeerFDBEntry]{"fl_peer_fdb", mustMap(t, spec), PeerFDBEntry.raw, peerFDBFrom,
		func() error { ended++; return nil }}
	n, err := p.PutAll([]PeerFDBEntry{{Net: 1}, {Net: 2}, {Net: 3}})
	full := (*FullError)(nil)
	if n != 2 || !errors.Is(err, table.ErrFull) || !errors.As(err, &full) || full.Table != "fl_peer_fdb" || full.Max != 2 {
		t.Errorf("PutAll = %d, %v", n, err)
	}
	if err := p.Put(PeerFDBEntry{Net: 3}); ended != 0 || !errors.Is(err, table.ErrFull) {
		t.Errorf("two new entries written, then none: decisions ended %d times; Put: %v", ended, err)
	}
	if err := p.Put(PeerFDBEntry{Net: 1, Node: 2}); ended != 1 || err != nil {
		t.Errorf("an entry overwritten: decisions ended %d times; Put: %v", ended, err)
	}
	for i := range 2 { // the second time nothing is left
		if deleted, err := p.remove(PeerFDBEntry{Net: 2}); deleted != (i == 0) || ended != 2 || err != nil {
			t.Errorf("remove = %t, %v; decisions ended %d times, want 2", deleted, err, ended)
		}
	}
}

func TestTunnelNodes(t *testing.T) {
	w := newWorld(t)
	for i, step := range []struct {
		net     uint32
		nodes   []uint16
		written bool
	}{
		{3, []uint16{5, 6, 7}, true}, {4, []uint16{6}, true}, {3, []uint16{5, 6, 7}, false},
		{3, []uint16{5, 7}, true}, {4, nil, true}, {4, nil, false}, {3, []uint16{9, 8, 7, 6}, true},
	} {
		if written, err := w.TunnelNodes.Set(step.net, step.nodes); written != step.written || err != nil {
			t.Errorf("step %d: Set = %t, %v; want %t", i, written, err, step.written)
		}
		if diff := cmp.Diff(step.nodes, w.TunnelNodes.Get(step.net), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	if n := w.TunnelNodes.Len(); n != 5 { // four, and how many they are
		t.Errorf("%d entries, want 5", n)
	}
	want := map[uint32][]uint16{7: {1}, 3: {9}}
	if _, _, err := w.TunnelNodes.Sync(want); err != nil {
		t.Fatal(err)
	}
	must(t, w.TunnelNodes.Refresh())
	if diff := cmp.Diff(want, w.TunnelNodes.List()); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}
