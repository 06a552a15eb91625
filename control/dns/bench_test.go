// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// BenchmarkAnswer measures what the server does between a query's packet and the answer's.
func BenchmarkAnswer(b *testing.B) {
	e := new(desired.Snapshot).Edit()
	e.PutNetwork("n", &model.Network{ID: "n", Name: "net", Driver: model.DriverBridge, Internal: true})
	for i := range 1000 {
		id := fmt.Sprintf("%064x", i)
		e.PutSandbox(id, &model.Sandbox{ID: id, Name: fmt.Sprint("box", i)})
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		ep := &model.Endpoint{ID: id, NetworkID: "n", SandboxID: id, IPv4: netip.PrefixFrom(addr, 8), Aliases: []string{"crowd" + fmt.Sprint(i/4)}}
		if i == 8 {
			ep.Aliases = []string{"*.app"}
		}
		e.PutEndpoint(id, ep)
	}
	s := e.Done()
	r := resolver{last: noNames(), snapshot: func() *desired.Snapshot { return s }, upstream: newUpstream("/nonexistent", nil)}
	for _, tc := range []struct {
		name, query string
		qtype       uint16
		rcode       int
	}{
		{"name", "box500.", dns.TypeA, 0}, {"four", "crowd100.", dns.TypeA, 0}, {"nodata", "box500.", dns.TypeAAAA, 0}, {"qualified", "box500.net.", dns.TypeA, 0},
		{"wildcard", "some.app.", dns.TypeA, 0}, {"reverse", "7.0.0.10.in-addr.arpa.", dns.TypePTR, 0},
		{"labels", strings.Repeat("a.", 127), dns.TypeA, dns.RcodeNameError},
	} {
		b.Run(tc.name, func(b *testing.B) {
			query, err := new(dns.Msg).SetQuestion(tc.query, tc.qtype).Pack()
			if err != nil {
				b.Fatal(err)
			}
			from := netip.AddrFrom4([4]byte{10, 0, 0, 9})
			b.ReportAllocs()
			for b.Loop() {
				q := new(dns.Msg)
				if err := q.Unpack(query); err != nil {
					b.Fatal(err)
				}
				a, result := r.answer(context.Background(), clients{network: "n"}, from, true, q)
				if result != Local || a.Rcode != tc.rcode {
					b.Fatal(a, result)
				}
				if _, err := a.Pack(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
