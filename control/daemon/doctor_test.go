// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"strings"
	"testing"
)

func TestDoctorFindsBypassedRules(t *testing.T) {
	n := newNode(t)
	table := "table netdev card { chain ingress { type filter hook ingress device lo priority 0; tcp dport 80 drop; };\n}"
	if r, err := n.host.Run(t.Context(), "nft", table); err != nil || r.Code != 0 {
		t.Fatalf("nft: %v\n%s", err, r.Output())
	}
	if report, want := n.doctor(), "those of published ports\n  nft table netdev card, chain ingress\n"; !strings.Contains(report, want) {
		t.Errorf("no %q in:\n%s", want, report)
	}
}

// doctor is its report on the node's daemon.
func (n *testNode) doctor() string {
	n.Helper()
	r, err := n.host.RunCommand(n.command("doctor"))
	if err != nil || r.Code != 0 {
		n.Fatalf("doctor: %v\n%s", err, r.Output())
	}
	return r.Stdout
}
