// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFoldPorts(t *testing.T) {
	row := func(ip string, public, private, count uint16, proto string) PortSummary {
		return PortSummary{IP: ip, PublicPort: public, PrivatePort: private, Count: count, Type: proto}
	}
	in := []PortSummary{
		row("0.0.0.0", 8080, 80, 1, "tcp"), row("::", 8080, 80, 1, "tcp"),
		row("0.0.0.0", 8081, 81, 2, "tcp"), row("::", 8081, 81, 2, "tcp"),
		row("0.0.0.0", 8082, 81, 1, "udp"),
		row("0.0.0.0", 8090, 83, 1, "tcp"), row("::", 8083, 83, 1, "tcp"),
	}
	want := []PortSummary{
		row("0.0.0.0", 8080, 80, 3, "tcp"), row("::", 8080, 80, 4, "tcp"),
		row("0.0.0.0", 8082, 81, 1, "udp"),
		row("0.0.0.0", 8090, 83, 1, "tcp"),
	}
	if diff := cmp.Diff(want, foldPorts(in)); diff != "" {
		t.Errorf("folded (-want +got):\n%s", diff)
	}
}
