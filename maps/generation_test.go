// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"testing"

	"github.com/cilium/ebpf"
)

// No value returns, whatever the programs add between a read and a write.
func TestGeneration(t *testing.T) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	g := &generation{m: m}
	seen := map[uint64]bool{}
	for i := range uint64(100) {
		if err := g.next(); err != nil {
			t.Fatal(err)
		}
		var v uint64
		if err := m.Lookup(uint32(0), &v); err != nil {
			t.Fatal(err)
		}
		for add := range i % 3 { // by programs; the next write may or may not have seen it
			if seen[v+add] {
				t.Fatalf("generation %#x returned", v+add)
			}
			seen[v+add] = true
		}
		if i%2 == 0 {
			if err := m.Put(uint32(0), v+i%3); err != nil {
				t.Fatal(err)
			}
		}
	}
}
