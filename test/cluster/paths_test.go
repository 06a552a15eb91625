// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// TestPathsAreProbed: hosts with sandboxes in a common network know how they reach each other, and doctor names
// the host and the direction that does not work, and the size that does not.
func TestPathsAreProbed(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	a.Fairlead("network", "create", "-d", "overlay", "--ipv4=false", "--ipv6", "six")
	a.Fairlead("network", "create", "-d", "overlay", "four")
	has(b, "four")
	has(b, "six")
	for _, network := range []string{"six", "four"} { // each alone is probed
		a.Sandbox("one", "--network", network)
		if states := p.states(); states != [2]string{"", ""} {
			t.Errorf("the paths are in state %q without a common network", states)
		}
		b.Sandbox("two", "--network", network)
		p.awaitStates("works", "works")
		for _, l := range []*lab.Lab{a, b} {
			other := map[*lab.Lab]string{a: "b", b: "a"}[l]
			row := regexp.MustCompile(`(?m)^` + other + `: [0-9.]+ms 0% \d+ seconds? ago;`)
			l.Eventually(40*time.Second, func() error { // the first probe may have been lost
				rows := l.Fairlead("node", "ls", "--format", "{{.Name}}: {{.RoundTrip}} {{.Loss}} {{.LastHeard}}; sandboxes: {{.Sandboxes}}")
				if !row.MatchString(rows) || strings.Count(rows, "sandboxes: 1") != 2 {
					return fmt.Errorf("node ls shows\n%s", rows)
				}
				return nil
			})
			if m := l.Metrics(); m[fmt.Sprintf(`fairlead_cluster_path_works{encrypted="false",node=%q}`, other)] != 1 ||
				m[fmt.Sprintf(`fairlead_cluster_path_round_trip_seconds{encrypted="false",node=%q}`, other)] <= 0 {
				t.Error("the metrics do not show the path")
			}
		}
		if network == "six" {
			a.Fairlead("rm", "-f", "one")
			b.Fairlead("rm", "-f", "two")
			p.awaitStates("", "")
		}
	}

	drop := func(what string) (begin, end []string) {
		return []string{"nft", "table ip faults { chain c { type filter hook forward priority 0; " + what + " udp dport 4789 drop; }; }"}, []string{"nft", "delete table ip faults"}
	}
	// One with ports does not match: bpf_redirect_neigh looks up policies without them.
	policy := func(action string) []string {
		return strings.Fields("ip xfrm policy " + action + " dir out src " + addressA + " dst " + addressB + " proto udp")
	}
	dropFromA, pass := drop("ip saddr " + addressA)
	dropFromB, _ := drop("ip saddr " + addressB)
	dropLarge, _ := drop("ip saddr " + addressA + " meta length > 1000")
	for _, fault := range []struct {
		name             string
		on               *world.Host
		begin, end       []string
		atA, atB         string // states
		doctorA, doctorB string
	}{
		{"the router drops what a sends", p.router, dropFromA, pass, "outbound-fails", "silent",
			"packets to host b at " + addressB + " do not arrive, and those from there do", "no packets arrive from host a at " + addressA},
		{"the router drops what b sends", p.router, dropFromB, pass, "silent", "outbound-fails",
			"no packets arrive from host b at " + addressB, "packets to host a at " + addressA + " do not arrive"},
		{"the router drops large packets of a", p.router, dropLarge, pass, "large-outbound-fails", "large-fails",
			"packets with 1450 bytes to host b", "no packets with 1450 bytes arrive from host a"},
		{"an IPsec policy of a blocks tunnels", a.Host, append(policy("add"), "action", "block"), policy("delete"), "outbound-fails", "silent",
			"packets to host b at " + addressB + " do not arrive", "no packets arrive from host a"},
	} {
		a.Must(fault.on, fault.begin[0], fault.begin[1:]...)
		p.awaitStates(fault.atA, fault.atB)
		for l, want := range map[*lab.Lab]string{a: fault.doctorA, b: fault.doctorB} {
			if got := l.Fairlead("doctor"); !strings.Contains(got, want) {
				t.Errorf("%s: doctor lacks %q:\n%s", fault.name, want, got)
			}
		}
		a.Must(fault.on, fault.end[0], fault.end[1:]...)
		p.awaitStates("works", "works")
	}

	// The kernel answers without a daemon.
	b.KillDaemon()
	time.Sleep(7 * time.Second) // three probes, and the time in which they are answered
	if states := p.statesOf(a, "b"); states != "works" {
		t.Errorf("without b's daemon the path is in state %q", states)
	}
	b.StartDaemon()
	p.awaitStates("works", "works")
}

// states returns the states of the paths to the other host, as a and as b see them.
func (p *pair) states() [2]string {
	p.Helper()
	return [2]string{p.statesOf(p.a, "b"), p.statesOf(p.b, "a")}
}

func (p *pair) statesOf(l *lab.Lab, other string) string {
	l.Helper()
	return strings.TrimSpace(l.Fairlead("node", "inspect", "--format", "{{range .Paths}}{{.State}} {{end}}", other))
}

func (p *pair) awaitStates(a, b string) {
	p.Helper()
	p.a.Eventually(40*time.Second, func() error {
		if got := p.states(); got != [2]string{a, b} {
			return fmt.Errorf("the paths are in state %q, want %q", got, [2]string{a, b})
		}
		return nil
	})
}
