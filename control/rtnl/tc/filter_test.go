// SPDX-License-Identifier: Apache-2.0

package tc

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func testProgram(t *testing.T) (fd int, id uint32) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	pid, ok := info.ID()
	if !ok {
		t.Fatal("the kernel reports no program IDs")
	}
	return p.FD(), uint32(pid)
}

func TestFilterLife(t *testing.T) {
	h := rtnltest.New(t)
	l, err := h.CreateVeth(rtnl.Veth{Name: "uplink0", PeerName: "uplink1", MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	dev, f := int(l.Index), NewFilters(h)
	oldFD, oldID := testProgram(t)
	newFD, newID := testProgram(t)
	replace := func(egress bool, fd int, id uint32, want bool) {
		t.Helper()
		changed, err := f.ReplaceFilter(dev, egress, "fl_test", fd, id)
		if err != nil {
			t.Fatal(err)
		}
		if changed != want {
			t.Errorf("changed is %v, want %v", changed, want)
		}
		if fs := f.filters(dev, egress); len(fs) != 1 || fs[0].Name != "fl_test" || uint32(fs[0].Id) != id {
			t.Errorf("filters are %v, want one with program %d", fs, id)
		}
	}
	replace(false, oldFD, oldID, true)
	replace(true, oldFD, oldID, true)
	replace(false, oldFD, oldID, false)
	replace(false, newFD, newID, true)
	replace(true, newFD, newID, true)

	qdiscs := func() int {
		all, err := h.TC().QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: dev}})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, q := range all {
			if q.Type() == "clsact" {
				n++
			}
		}
		return n
	}
	for i, egress := range []bool{false, true, true} {
		if want := min(1, max(0, 2-i)); qdiscs() != want {
			t.Errorf("%d clsact qdiscs before removal %d, want %d", qdiscs(), i, want)
		}
		if err := f.RemoveFilter(dev, egress, "fl_test", true); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.DeleteLink(l.Index); err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveFilter(dev, true, "fl_test", true); err != nil {
		t.Errorf("remove from a deleted device: %v", err)
	}
	if _, err := f.ReplaceFilter(dev, true, "fl_test", newFD, newID); err == nil {
		t.Error("attaching to a deleted device succeeded")
	}
}
