// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestBypassedRules(t *testing.T) {
	rtnltest.New(t) // a namespace of the test's own
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(`
		table inet mine {
			chain forward { type filter hook forward priority 0; tcp dport 80 drop; }
			chain empty { type filter hook forward priority 1; }
			chain input { type filter hook input priority 0; tcp dport 80 drop; }
			chain called { tcp dport 80 drop; }
		}
		table ip strict { chain forward { type filter hook forward priority 0; policy drop; } }
		table ip6 raw { chain PREROUTING { type filter hook prerouting priority -300; tcp dport 80 drop; } }
		table ip nat { chain PREROUTING { type nat hook prerouting priority -100; tcp dport 80 redirect to 8080; } }
		table netdev card { chain ingress { type filter hook ingress device lo priority 0; tcp dport 80 drop; } }
		table ip filter { chain DOCKER-USER { ip saddr 192.0.2.1 drop; counter return; } }
		table ip6 filter { chain DOCKER-USER { counter return; } }
	`, "; } }", ";}\n}"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	got, err := BypassedRules()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{
		"nft table inet mine, chain forward", "nft table ip filter, chain DOCKER-USER", "nft table ip strict, chain forward",
		"nft table ip6 raw, chain PREROUTING", "nft table netdev card, chain ingress",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("chains (-want +got):\n%s", diff)
	}
}
