// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/maps"
)

// A filter that no flow could ever match is a mistake, and is refused.
func TestFlowFilters(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	flow := maps.Flow{State: "established"}
	flow.Orig.Src, flow.Orig.Dst, flow.Orig.Proto = at("10.5.0.2:4000"), at("192.0.2.7:80"), 6
	flow.Reply.Src, flow.Reply.Dst, flow.Reply.Proto = at("192.0.2.7:80"), at("198.51.100.1:4000"), 6
	for _, tc := range []struct {
		filter  api.FlowFilter
		match   bool
		refused string
	}{
		{filter: api.FlowFilter{}, match: true},
		{filter: api.FlowFilter{State: "established", Protocol: "tcp", Port: 80}, match: true},
		{filter: api.FlowFilter{State: "udp_stream"}},
		{filter: api.FlowFilter{Protocol: "icmpv6"}},
		{filter: api.FlowFilter{Protocol: "132"}, refused: "unknown protocol"},
		{filter: api.FlowFilter{Protocol: "47"}},
		{filter: api.FlowFilter{Protocol: "tpc"}, refused: "unknown protocol \"tpc\" (want tcp"},
		{filter: api.FlowFilter{Protocol: "256"}, refused: "unknown protocol"},
		{filter: api.FlowFilter{State: "estab"}, refused: "(want one of close, established"},
		{filter: api.FlowFilter{Address: "10.5.0.2"}, match: true},
		{filter: api.FlowFilter{Address: "10.5.0.0/16"}, match: true},
		{filter: api.FlowFilter{Address: "198.51.100.0/24"}, match: true},
		{filter: api.FlowFilter{Address: "10.6.0.0/16"}},
		{filter: api.FlowFilter{Address: "::/0"}},
		{filter: api.FlowFilter{Address: "10.5.0.0/33"}, refused: "malformed"},
	} {
		match, err := New(Config{}).matcher(tc.filter)
		switch {
		case tc.refused != "":
			if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%+v: %v, want a refusal that says %q", tc.filter, err, tc.refused)
			}
		case err != nil:
			t.Errorf("%+v: %v", tc.filter, err)
		case match(flow) != tc.match:
			t.Errorf("%+v matches: %v, want %v", tc.filter, !tc.match, tc.match)
		}
	}
	flow.Expires = -3 * time.Second
	if got := apiFlow(flow, nil).ExpiresSeconds; got != 0 {
		t.Errorf("an overdue flow expires in %v s, want 0", got)
	}
}
