// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/fairlead-net/fairlead/bpf"
)

// Entries of groups come and go with the nodes of a network. What was heard of a node that stays, stays.
func TestGroupsFollowNodes(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadTC()
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, size uint32) *ebpf.Map {
		s := spec.Maps[name]
		s.MaxEntries = size
		m, err := ebpf.NewMap(s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	inKernel := open(bpf.TCMapFlGroup, 4)
	nodes, groups, err := New(open(bpf.TCMapFlTunnelNode, 64), inKernel)
	if err != nil {
		t.Fatal(err)
	}
	set := func(net uint32, want string, list ...uint16) {
		t.Helper()
		if _, err := nodes.Set(net, list); err != nil {
			t.Fatal(err)
		}
		got := ""
		for net := range uint32(3) {
			for node := range uint32(10) {
				var v bpf.TCGroups
				if inKernel.Lookup(bpf.TCGroupsKey{Net: net, Node: node}, &v) == nil {
					got += fmt.Sprintf("%d/%d:%d ", net, node, v.Full[0])
				}
			}
		}
		if got != want {
			t.Errorf("groups are %s, want %s", got, want)
		}
	}
	note := func(net, node uint32) {
		t.Helper()
		if err := inKernel.Update(bpf.TCGroupsKey{Net: net, Node: node}, bpf.TCGroups{Full: [2]uint32{7}, Left: [2]uint32{9}}, ebpf.UpdateExist); err != nil {
			t.Fatal(err)
		}
	}
	set(1, "1/0:0 1/2:0 1/3:0 ", 2, 3)
	note(1, 0)
	note(1, 3)
	if h, ok, err := groups.Here(1); err != nil || !ok || h.Left[0] != 9 {
		t.Errorf("heard here: %+v, %t, %v", h, ok, err)
	}
	set(1, "1/0:7 1/3:7 1/4:0 ", 3, 4)
	// A node that comes back is not known any more. Without room it has no entry, and the list is written.
	set(1, "1/0:7 1/2:0 1/3:7 1/4:0 ", 2, 3, 4)
	set(2, "1/0:7 1/2:0 1/3:7 1/4:0 ", 5)
	if got := nodes.Get(2); len(got) != 1 || got[0] != 5 {
		t.Errorf("nodes of a network without room for its groups: %v", got)
	}
	set(1, "")
	if _, ok, err := groups.Here(1); ok || err != nil {
		t.Errorf("an entry is left: %t, %v", ok, err)
	}
}
