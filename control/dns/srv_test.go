// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// withPorts is the world, in which sandboxes and a service have ports.
func withPorts() desiredtest.Plain {
	s := world()
	change := func(letter string, change func(sb *model.Sandbox)) {
		sb := *s.Sandboxes[strings.Repeat(letter, 64)]
		change(&sb)
		s.Sandboxes[sb.ID] = &sb
	}
	change("a", func(sb *model.Sandbox) {
		sb.Ports = []model.PortBinding{{HostPort: 8080, Port: 80, Count: 1, Proto: model.TCP}, {HostPort: 9000, Port: 9000, Count: 10, Proto: model.UDP}}
	})
	change("b", func(sb *model.Sandbox) {
		sb.Expose = []model.PortProto{{Port: 80, Count: 1, Proto: model.TCP}, {Port: 5432, Count: 1, Proto: model.TCP}}
	})
	ep := *s.Endpoints["e2"]
	ep.Links = []model.Link{{Target: "db", Alias: "store"}}
	s.Endpoints["e2"] = &ep
	s.Services["v1"] = &model.Service{ID: "v1", NetworkID: "n2", Name: "shop", IPv4: s.Endpoints["e4"].IPv4.Addr().Next(),
		Ports: []model.PortBinding{{HostPort: 8443, Port: 443, Count: 1, Proto: model.TCP}}}
	return s
}

// SRV records say which of the holders of a name publish or expose a port, also for services and links; the addresses come along.
func TestPorts(t *testing.T) {
	for _, tc := range []struct {
		name, want string // "-": no answers; "": not answered here
	}{
		{"_80._tcp.web.", "web.back.end.:80 10.2.0.2"},
		{"_http._tcp.web.front.", "web.Front.:80 10.1.0.2 fd01::2"},
		{"_HTTP._TCP.WEB.Front.", "web.Front.:80 10.1.0.2 fd01::2"},
		{"_9009._udp.web.", "web.back.end.:9009 10.2.0.2"},
		{"_9010._udp.web.", "-"},
		{"_8080._tcp.web.", "-"}, // a port of the host
		{"_80._udp.web.", "-"},
		{"_80._tcp.shared.", "db.back.end.:80 10.2.0.3"}, // db2 has no ports
		{"_5432._tcp.any.name_1.", "db.back.end.:5432 10.2.0.3"},
		{"_5432._tcp.store.", "db.back.end.:5432 10.2.0.3"},
		{"_https._tcp.shop.", "shop.back.end.:443 10.2.0.5"},
		{"_80._tcp.nobody.", ""},
		{"_80._sctp.web.", ""},
		{"80._tcp.web.", ""},
		{"_80.tcp.web.", ""},
		{"_bogus._tcp.web.", ""},
		{"_0._tcp.web.", ""},
		{"_70000._tcp.web.", ""},
		{"_80._tcp.", ""},
		{"web.", "-"},
	} {
		a, result := ask(withPorts(), "n1", "10.1.0.2", tc.name, dns.TypeSRV, true)
		var got []string
		for _, rr := range append(slices.Clone(a.Answer), a.Extra...) {
			switch rr := rr.(type) {
			case *dns.SRV:
				got = append(got, fmt.Sprint(rr.Target, ":", rr.Port))
			case *dns.A:
				got = append(got, rr.A.String())
			case *dns.AAAA:
				got = append(got, rr.AAAA.String())
			}
		}
		want := tc.want != ""
		if text := strings.Join(got, " "); text != strings.Trim(tc.want, "-") || (result == Local) != want || want && a.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %q, %s, %s; want %q", tc.name, text, result, dns.RcodeToString[a.Rcode], tc.want)
		}
	}
	// The client is in another network.
	if a, _ := ask(withPorts(), "n3", "10.3.0.2", "_80._tcp.web.", dns.TypeSRV, true); len(a.Answer) > 0 {
		t.Errorf("lone is answered %v", a.Answer)
	}
}
