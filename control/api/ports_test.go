// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/control/model"
)

func compareAddrs() cmp.Options {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
}

func TestParsePublish(t *testing.T) {
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for in, want := range map[string]model.PortSpec{
		"80":                      {Port: 80, Count: 1, Proto: model.TCP},
		"80/udp":                  {Port: 80, Count: 1, Proto: model.UDP},
		"80/UDP":                  {Port: 80, Count: 1, Proto: model.UDP},
		"80/Sctp":                 {Port: 80, Count: 1, Proto: model.SCTP},
		":80":                     {Port: 80, Count: 1, Proto: model.TCP},
		"0:80":                    {Port: 80, Count: 1, Proto: model.TCP},
		"00:80":                   {Port: 80, Count: 1, Proto: model.TCP},
		"::80":                    {Port: 80, Count: 1, Proto: model.TCP},
		"8080:80":                 {HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP},
		"8080-8080:80":            {HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP},
		"9000-9010":               {Port: 9000, Count: 11, Proto: model.TCP},
		"9000-9010:9000-9010/udp": {HostPort: 9000, HostCount: 11, Port: 9000, Count: 11, Proto: model.UDP},
		"8000-8010:80":            {HostPort: 8000, HostCount: 11, Port: 80, Count: 1, Proto: model.TCP},
		"1-65535:1-65535":         {HostPort: 1, HostCount: 65535, Port: 1, Count: 65535, Proto: model.TCP},
		"127.0.0.1:53:53":         {HostIP: v4, HostPort: 53, HostCount: 1, Port: 53, Count: 1, Proto: model.TCP},
		"127.0.0.1::80":           {HostIP: v4, Port: 80, Count: 1, Proto: model.TCP},
		"127.0.0.1::80-81":        {HostIP: v4, Port: 80, Count: 2, Proto: model.TCP},
		"0.0.0.0:80:80":           {HostIP: netip.IPv4Unspecified(), HostPort: 80, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP},
		"[::1]:8080:80":           {HostIP: v6, HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP},
		"[::1]::80/udp":           {HostIP: v6, Port: 80, Count: 1, Proto: model.UDP},
		"[::]:80:80":              {HostIP: netip.IPv6Unspecified(), HostPort: 80, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP},
		"8080:80,from=10.0.0.0/8": {HostPort: 8080, HostCount: 1, Port: 80, Count: 1, Proto: model.TCP, From: "10.0.0.0/8"},
		"80/udp,from=2001:db8::/32,from=192.0.2.7,from=::/0,from=0.0.0.0/0,from=::1": {Port: 80, Count: 1, Proto: model.UDP,
			From: "0.0.0.0/0,192.0.2.7/32,::/0,::1/128,2001:db8::/32"},
		"[::1]:8080-8081:80-81,from=::1/128": {HostIP: v6, HostPort: 8080, HostCount: 2, Port: 80, Count: 2, Proto: model.TCP, From: "::1/128"},
	} {
		got, err := ParsePublish(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if diff := cmp.Diff(want, got, compareAddrs()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", in, diff)
		}
	}
}

func TestParsePublishRefusals(t *testing.T) {
	for in, want := range map[string]string{
		"":                   "the sandbox's port is missing",
		"/tcp":               "the sandbox's port is missing",
		"8080:":              "the sandbox's port is missing",
		"127.0.0.1:8080:":    "the sandbox's port is missing",
		"x":                  `sandbox port: "x" is not a port number`,
		"-1":                 `"" is not a port number`,
		"+80":                "is not a port number",
		"65536":              "is not a port number",
		"0":                  "0 is not a port a program can listen on",
		"8080:0":             "0 is not a port a program can listen on",
		"90-80":              "ends before it begins",
		"80-":                `"" is not a port number`,
		"a:80":               `host port: "a" is not a port number`,
		"99999:80":           `host port: "99999" is not a port number`,
		"0-10:80":            "begins with 0",
		"20-10:80":           "ends before it begins",
		"80-81:80-90":        "80-81 and sandbox ports 80-90 differ",
		"8080:80-81":         "the numbers of host ports 8080 and sandbox ports 80-81 differ",
		"80/icmp":            `protocol "icmp" is unknown (want tcp, udp or sctp)`,
		"80/":                `protocol "" is unknown`,
		"80/tcp/udp":         `protocol "tcp/udp" is unknown`,
		"127.0.0.1:80":       "must be followed by a host port",
		"localhost:80:80":    `"localhost" is not an IP address`,
		"1.2.3:80:80":        "is not an IP address",
		"[fe80::1%eth0]:1:1": "has a zone",
		"[::1]:80":           "want [IPv6]:HOST:PORT",
		"[::1]80:80":         "want [IPv6]:HOST:PORT",
		"[::1":               "want [IPv6]:HOST:PORT",
		"[127.0.0.1]:80:80":  "brackets are for IPv6",
		"[]:80:80":           `"" is not an IP address`,
		"[::1]:1:2:3":        "want [IPv6]:HOST:PORT",
		"::1:8080:80":        "in brackets",
		"2001:db8::1:80:80":  "in brackets",
		"224.0.0.1:80:80":    "is multicast",
		"8080: 80":           "is not a port number",

		"80,":                                `"" is not an option of a published port (want from=PREFIX)`,
		"80,to=10.0.0.0/8":                   `"to=10.0.0.0/8" is not an option`,
		"80,from":                            `"from" is not an option`,
		"80,from=":                           "from= is not a prefix of addresses",
		"80,from=web":                        "from=web is not a prefix of addresses",
		"80,from=10.0.0.0/33":                "from=10.0.0.0/33 is not a prefix of addresses",
		"80,from=10.0.0/8":                   "from=10.0.0/8 is not a prefix of addresses",
		"80,from=fe80::%eth0/64":             "is not a prefix of addresses",
		"80,from=fe80::1%eth0":               "is not a prefix of addresses",
		"80,from=10.0.0.1/8":                 "from=10.0.0.1/8 has bits set beyond its length (give from=10.0.0.0/8, or from=10.0.0.1 for the address alone)",
		"80,from=2001:db8::1/32":             "give from=2001:db8::/32",
		"80,from=::ffff:10.0.0.0/104":        "is IPv4 in the form of IPv6",
		"80,from=10.0.0.0/8,10.1.0.0/16":     `"10.1.0.0/16" is not an option`,
		"80,from=10.0.0.1,from=10.0.0.1/32":  "from=10.0.0.1/32 is given twice",
		"80,from=10.0.0.0/8,from=10.0.0.0/8": "from=10.0.0.0/8 is given twice",
		"x,from=10.0.0.0/8":                  `"x" is not a port number`,
		"80" + strings.Repeat(",from=10.0.0.1", model.MaxSources+1): "65 prefixes of clients: a port may have 64",
	} {
		got, err := ParsePublish(in)
		if err == nil {
			t.Errorf("%q: accepted as %+v", in, got)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, want it to contain %q", in, err, want)
		}
	}
}

// FuzzParsePublish checks that an accepted spec is unchanged after encoding in a request.
func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80", "8080:80/udp", "[::1]:1-2:3-4", "1.2.3.4::5", "80,from=10.0.0.0/8,from=::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePublish(s)
		if err != nil {
			return
		}
		create := NewSandboxCreate(model.SandboxSpec{Ports: []model.PortSpec{p}})
		spec, err := create.Spec("x")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]model.PortSpec{p}, spec.Ports, compareAddrs()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestParseExpose(t *testing.T) {
	got, err := ParseExpose("80-82/udp")
	if want := (model.PortProto{Port: 80, Count: 3, Proto: model.UDP}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "x", "80:80", "0", "9-8", "80/x"} {
		if got, err := ParseExpose(bad); err == nil {
			t.Errorf("%q: accepted as %+v", bad, got)
		}
	}
}
