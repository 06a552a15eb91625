// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// The devices of the last call are exempt, whatever happened to the rules; other tables are kept.
func TestUntrack(t *testing.T) {
	_, ns := rtnltest.NetNS(t)
	nft := func(args ...string) string {
		t.Helper()
		var out []byte
		rtnltest.In(t, ns, func(*rtnl.Conn) (err error) {
			out, err = exec.Command("nft", args...).CombinedOutput()
			return err
		})
		return strings.Join(strings.Fields(string(out)), " ")
	}
	untrack := func(want bool, devices ...uint32) {
		t.Helper()
		if changed, err := Untrack(ns, devices); err != nil || changed != want {
			t.Errorf("Untrack(%v) = %t, %v; want %t", devices, changed, err, want)
		}
		if changed, err := Untrack(ns, devices); err != nil || changed {
			t.Errorf("repeated: Untrack(%v) = %t, %v", devices, changed, err)
		}
	}
	nft("add table ip theirs")
	untrack(false)
	untrack(true, 1)
	want := "table inet fairlead { chain prerouting { type filter hook prerouting priority raw; policy accept; iif \"lo\" notrack }" +
		" chain output { type filter hook output priority raw; policy accept; oif \"lo\" notrack } }"
	if got := nft("list", "table", "inet", "fairlead"); got != want {
		t.Errorf("rules\n%s, want\n%s", got, want)
	}
	untrack(true, 7, 1)
	nft("flush chain inet fairlead output")
	untrack(true, 1, 7)
	nft("add rule inet fairlead prerouting drop")
	untrack(true, 1, 7)
	nft("delete table inet fairlead")
	untrack(true, 7)
	untrack(true)
	if got := nft("list", "tables"); got != "table ip theirs" {
		t.Errorf("in the end there is %q", got)
	}
}
