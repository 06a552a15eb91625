// SPDX-License-Identifier: Apache-2.0

package rtnl_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestDeleteLinks(t *testing.T) {
	h := rtnltest.New(t)
	pairs := func(names ...string) (indices []uint32) {
		for _, name := range names {
			l, err := h.CreateVeth(rtnl.Veth{Name: "fl" + name, PeerName: "fp" + name, MTU: 1500})
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
			if _, err := h.Link(index); !errors.Is(err, rtnl.ErrNoDevice) {
				t.Errorf("device %d: %v, want %v", index, err, rtnl.ErrNoDevice)
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
		if err := rtnltest.IP(fmt.Sprint("link set lo group ", rtnl.DeletionGroup)); err != nil {
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
	h := rtnltest.New(t)
	l, err := h.CreateVeth(rtnl.Veth{Name: "fla", PeerName: "fpa", MTU: 1500})
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

// The arrays in a link dump must agree with the files in /proc.
func TestConfMatchesProc(t *testing.T) {
	h := rtnltest.New(t)
	const name = "fl0"
	if _, err := h.CreateVeth(rtnl.Veth{Name: name, PeerName: "fl1", MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	files := map[string]func(rtnl.Conf) int32{
		"ipv4/conf/%/forwarding":       func(c rtnl.Conf) int32 { return c.Forwarding4 },
		"ipv6/conf/%/forwarding":       func(c rtnl.Conf) int32 { return c.Forwarding6 },
		"ipv6/conf/%/force_forwarding": func(c rtnl.Conf) int32 { return c.ForceForwarding6 },
		"ipv6/conf/%/accept_ra":        func(c rtnl.Conf) int32 { return c.AcceptRA },
		"ipv6/conf/%/accept_dad":       func(c rtnl.Conf) int32 { return c.AcceptDAD },
		"ipv6/conf/%/disable_ipv6":     func(c rtnl.Conf) int32 { return c.DisableIPv6 },
		"ipv6/conf/%/addr_gen_mode":    func(c rtnl.Conf) int32 { return c.AddrGenMode },
	}
	for path, field := range files {
		path = strings.Replace(path, "%", name, 1)
		if _, err := os.Stat("/proc/sys/net/" + path); err != nil {
			continue // this kernel does not have it
		}
		for _, v := range []string{"1", "0"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(v), 0); err != nil {
				t.Fatal(err)
			}
			l, err := h.LinkByName(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := field(l.Conf); int(got) != int(v[0]-'0') {
				t.Errorf("%s is %s, but the link has %d", path, v, got)
			}
		}
	}
}
