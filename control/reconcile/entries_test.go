// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/model"
)

// A port published at every address has an entry for clients of each family, whatever the family
// of the backend.
func TestPublishRuns(t *testing.T) {
	four := netip.MustParsePrefix("10.1.0.2/24")
	n := &model.Network{Index: 3, Subnets: []model.Subnet{{Prefix: four.Masked(), Gateway: netip.MustParseAddr("10.1.0.1")}}}
	ep := &model.Endpoint{IPv4: four}
	for host, want := range map[string][]string{
		"":            {"0.0.0.0 10.1.0.2", ":: 10.1.0.2"},
		"0.0.0.0":     {"0.0.0.0 10.1.0.2"},
		"::":          {":: 10.1.0.2"},
		"::1":         {"::1 10.1.0.2"},
		"2001:db8::1": {"2001:db8::1 10.1.0.2"},
	} {
		p := &model.Publish{ID: 1, PortBinding: model.PortBinding{HostPort: 8080, Port: 80, Count: 2, Proto: model.TCP}}
		if host != "" {
			p.HostIP = netip.MustParseAddr(host)
		}
		var got []string
		for _, r := range publishRuns(p, ep, n, 7) {
			if r.count != 2 || r.first.Port != 8080 || r.first.BackendPort != 80 || r.first.IfIndex != 7 || r.first.Net != 3 {
				t.Errorf("at %q: %+v", host, r)
			}
			got = append(got, r.first.HostIP.String()+" "+r.first.Backend.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at %q (-want +got):\n%s", host, diff)
		}
	}
}
