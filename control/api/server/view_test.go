// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/api"
)

func TestFoldPorts(t *testing.T) {
	row := func(ip string, public, private, count uint16, proto string) api.PortSummary {
		return api.PortSummary{IP: ip, PublicPort: public, PrivatePort: private, Count: count, Type: proto}
	}
	in := []api.PortSummary{
		row("0.0.0.0", 8080, 80, 1, "tcp"), row("::", 8080, 80, 1, "tcp"),
		row("0.0.0.0", 8081, 81, 2, "tcp"), row("::", 8081, 81, 2, "tcp"),
		row("0.0.0.0", 8082, 81, 1, "udp"),
		row("0.0.0.0", 8090, 83, 1, "tcp"), row("::", 8083, 83, 1, "tcp"),
	}
	want := []api.PortSummary{
		row("0.0.0.0", 8080, 80, 3, "tcp"), row("::", 8080, 80, 4, "tcp"),
		row("0.0.0.0", 8082, 81, 1, "udp"),
		row("0.0.0.0", 8090, 83, 1, "tcp"),
	}
	if diff := cmp.Diff(want, foldPorts(in)); diff != "" {
		t.Errorf("folded (-want +got):\n%s", diff)
	}
}
