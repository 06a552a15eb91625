// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// testHandle returns a handle on a network namespace of the test's own. The test's goroutine
// stays in it on a locked thread.
func testHandle(t *testing.T) *Handle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// testNetNS creates a namespace at a path of the test's own.
func testNetNS(t *testing.T) (string, *NetNS) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns", "sandbox")
	if err := CreateNetNS(path); err != nil {
		t.Fatal(err)
	}
	ns, err := OpenNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := RemoveNetNS(path); err != nil {
			t.Error(err)
		}
	})
	return path, ns
}

// readNetNS returns the devices, addresses and default routes of a namespace.
func readNetNS(t *testing.T, ns *NetNS) (links map[string]Link, addrs map[string][]string, routes []Route) {
	t.Helper()
	links, addrs = make(map[string]Link), make(map[string][]string)
	err := ns.Do(func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.close()
		ls, err := c.links()
		if err != nil {
			return err
		}
		as, err := c.addrs()
		if err != nil {
			return err
		}
		for _, l := range ls {
			links[l.Name] = l
			for _, a := range as {
				if a.IfIndex == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast() {
					addrs[l.Name] = append(addrs[l.Name], a.Prefix.String())
				}
			}
		}
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := c.routes(fam)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Dst.Bits() == 0 {
					routes = append(routes, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return links, addrs, routes
}

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// addDefaultMsg returns a default route as "ip route add" sends it.
func addDefaultMsg(gw netip.Addr) []nl.NetlinkRequestData {
	msg := nl.NewRtMsg()
	msg.Family = uint8(family(gw))
	return []nl.NetlinkRequestData{msg, addr(unix.RTA_GATEWAY, gw)}
}
