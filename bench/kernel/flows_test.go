// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
)

// Every entry is one of two that refer to each other, like the datapath's.
func TestFill(t *testing.T) {
	const entries = 25_000
	spec, err := bpf.LoadTC()
	if err != nil {
		t.Fatal(err)
	}
	of := spec.Maps[bpf.TCMapFlCt]
	of.MaxEntries, of.Pinning = 2*entries, ebpf.PinNone
	table, err := ebpf.NewMap(of)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if err := fill(table, entries); err != nil {
		t.Fatal(err)
	}
	found := make(map[bpf.TCTuple]bpf.TCCtEntry)
	var k bpf.TCTuple
	var e bpf.TCCtEntry
	all := table.Iterate()
	for all.Next(&k, &e) {
		found[k] = e
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	if len(found) != entries {
		t.Errorf("%d entries, want %d", len(found), entries)
	}
	for k, e := range found {
		partner := e.Xlat
		partner.Saddr, partner.Daddr, partner.Sport, partner.Dport = e.Xlat.Daddr, e.Xlat.Saddr, e.Xlat.Dport, e.Xlat.Sport
		back, ok := found[partner]
		if !ok || back.Flags == e.Flags || partner == k {
			t.Fatalf("entry %v has the partner %v, %v", k, partner, back)
		}
	}
}
