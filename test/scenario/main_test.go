// SPDX-License-Identifier: Apache-2.0

// Package scenario tests what an operator relies on with the real daemon and real programs in
// namespaces.
package scenario

import (
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// modes runs a scenario in a lab with tcx and in one with clsact.
func modes(t *testing.T, cfg lab.Config, scenario func(t *testing.T, l *lab.Lab)) {
	for _, clsact := range []bool{false, true} {
		t.Run(mode(clsact), func(t *testing.T) {
			t.Parallel()
			cfg := cfg
			cfg.Clsact = clsact
			scenario(t, lab.New(t, cfg))
		})
	}
}

func mode(clsact bool) string {
	if clsact {
		return "clsact"
	}
	return "tcx"
}

// families runs a scenario for IPv4 and for IPv6.
func families(t *testing.T, l *lab.Lab, scenario func(l *lab.Lab, f lab.Family)) {
	t.Helper()
	for _, f := range lab.Families() {
		t.Run("IPv"+f.String(), func(t *testing.T) { scenario(l.With(t), f) })
	}
}

// network makes a network with both families and returns its name.
func network(l *lab.Lab, name string, flags ...string) string {
	l.Helper()
	l.Fairlead(append(append([]string{"network", "create", "--ipv6"}, flags...), name)...)
	return name
}
