// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink/nl"
)

func TestDeleteLinks(t *testing.T) {
	h := testHandle(t)
	pairs := func(names ...string) (indices []uint32) {
		for _, name := range names {
			l, err := h.CreateVeth(Veth{Name: "fl" + name, PeerName: "fp" + name, MTU: 1500})
			if err != nil {
				t.Fatal(err)
			}
			indices = append(indices, l.Index)
		}
		return indices
	}
	gone := func(indices []uint32) {
		t.Helper()
		for _, index := range indices {
			if _, err := h.Link(index); !errors.Is(err, ErrNoDevice) {
				t.Errorf("device %d: %v, want %v", index, err, ErrNoDevice)
			}
		}
	}
	kept := pairs("keep")
	for name, names := range map[string][]string{"one": {"a"}, "many": {"a", "b", "c"}} {
		t.Run(name, func(t *testing.T) {
			indices := append(pairs(names...), 987654)
			for range 2 {
				if err := h.DeleteLinks(indices); err != nil {
					t.Fatal(err)
				}
				gone(indices)
			}
		})
	}
	t.Run("group of another program", func(t *testing.T) {
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = 1
		if err := h.conn.do(unix.RTM_SETLINK, 0, msg, u32(unix.IFLA_GROUP, deletionGroup)); err != nil {
			t.Fatal(err)
		}
		indices := pairs("a", "b")
		if err := h.DeleteLinks(indices); err != nil {
			t.Fatal(err)
		}
		gone(indices)
		if _, err := h.Link(1); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.Link(kept[0]); err != nil {
		t.Error(err)
	}
}

// DeleteLink does not wait for the kernel's reply. Close does, since the goroutine that waits
// uses the handle's namespace.
func TestCloseWaitsForDeletions(t *testing.T) {
	h := testHandle(t)
	l, err := h.CreateVeth(Veth{Name: "fla", PeerName: "fpa", MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	// Deletions queue up for the RTNL lock.
	for _, index := range []uint32{l.Index, l.Index, l.Index, l.Index} {
		if err := h.DeleteLink(index); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if strings.Contains(string(stacks), "deleteLink") {
		t.Errorf("a deletion is pending after Close:\n%s", stacks)
	}
}
