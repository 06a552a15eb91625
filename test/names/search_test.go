// SPDX-License-Identifier: Apache-2.0

package names

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Names of one label and of several, with search domains and ndots, are what the resolver of each C library makes of
// Docker's resolv.conf: with ndots:0 both try a name as it is first. Then glibc tries the domains, and musl does not.
func TestSearch(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	program := filepath.Join(n.Dir("musl"), "lookup")
	n.Must(n.Host, "musl-gcc", "-static", "-Os", "-o", program, "testdata/lookup.c")
	n.Fairlead("network", "create", "web")
	n.Fairlead("network", "create", "db")
	ben := n.Sandbox("ben", "--network", "web", "--network-alias", "two.labels").IP4.String()
	n.Sandbox("anna", "--network", "web", "--dns-search", "corp.example", "--dns-search", "com")
	n.Sandbox("carl", "--network", "web", "--dns-search", "web", "--dns-search", "com", "--dns-option", "ndots:2")
	n.Sandbox("dora", "--network", "db", "--dns-search", "corp.example")
	n.contains(n.in("anna", "cat", "/etc/resolv.conf"), "search corp.example com\n", " ndots:0\n")
	n.contains(n.in("carl", "cat", "/etc/resolv.conf"), "search web com\noptions ndots:2\n")

	const none, some = "", -1
	for _, tt := range []struct {
		library, sandbox, name, want string
		asked                        int // queries that leave the host; -1: some
	}{
		{"glibc", "anna", "ben", ben, 0},
		{"musl", "anna", "ben", ben, 0},
		{"glibc", "anna", "ben.web", ben, 0},
		{"musl", "anna", "ben.web", ben, 0},
		{"glibc", "anna", "ben.", ben, 0},
		{"musl", "anna", "ben.", ben, 0},
		{"glibc", "anna", "two.labels", ben, 0},
		{"musl", "anna", "two.labels", ben, 0},
		{"glibc", "anna", "example", lab.Internet4, some}, // .com, after example and example.corp.example
		{"musl", "anna", "example", none, some},
		{"glibc", "anna", "example.com", lab.Internet4, some},
		{"musl", "anna", "example.com", lab.Internet4, some},
		// With ndots:2 both try the domains first: that of the network is answered here.
		{"glibc", "carl", "ben", ben, 0},
		{"musl", "carl", "ben", ben, 0},
		{"glibc", "carl", "ben.web", ben, some}, // after ben.web.web and ben.web.com
		{"musl", "carl", "ben.web", ben, some},
		{"glibc", "carl", "example", lab.Internet4, some},
		{"musl", "carl", "example", lab.Internet4, some},
		// A name of another network.
		{"glibc", "dora", "ben", none, some},
		{"musl", "dora", "ben", none, some},
	} {
		command := []string{"exec", tt.sandbox, "getent", "ahosts", tt.name}
		if tt.library == "musl" {
			command = []string{"exec", tt.sandbox, program, tt.name}
		}
		before := n.Asked.Load()
		out := n.Try(command...)
		got := ""
		if f := strings.Fields(out.Stdout); out.Code == 0 && len(f) > 0 {
			got = f[0]
		}
		asked := int(n.Asked.Load() - before)
		if got != tt.want || asked != tt.asked && (tt.asked != some || asked == 0) {
			t.Errorf("%s: %s in %s is %q after %d queries outside, want %q after %d (-1: some)\n%s", tt.library, tt.name, tt.sandbox, got, asked, tt.want, tt.asked, out.Output())
		}
	}
}
