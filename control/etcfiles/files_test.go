// SPDX-License-Identifier: Apache-2.0

package etcfiles

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

func world(t *testing.T) (desiredtest.Plain, Config) {
	p := desiredtest.New()
	p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverBridge, Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.1.0.1")}}}
	p.Sandboxes["s"] = &model.Sandbox{ID: "s", Name: "anna", NetworkMode: "web", NetNS: "/n", Hostname: "box"}
	p.Endpoints["e"] = &model.Endpoint{ID: "e", NetworkID: "n", SandboxID: "s", IPv4: netip.MustParsePrefix("10.1.0.2/16")}
	cfg := Config{Dir: t.TempDir(), ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Hosts: "/nonexistent", Log: slog.New(slog.DiscardHandler)}
	write(t, cfg.ResolvConf, "nameserver 127.0.0.53\ndomain old\nsearch a.example b.example\noptions ndots:2\noptions rotate\n")
	return p, cfg
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// resolv.conf follows Docker's rules: the last search line counts, options add up, and servers of the loopback are
// not passed to sandboxes in networks without names.
func TestResolvConf(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(p desiredtest.Plain)
		want   string
	}{
		{"names", func(desiredtest.Plain) {}, "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:2 rotate\n"},
		{"ours", func(p desiredtest.Plain) {
			p.Sandboxes["s"].Lookup = model.Lookup{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Search: []string{"."}, Options: []string{"rotate"}}
		}, "nameserver 127.0.0.11\noptions rotate ndots:0\n"},
		{"default network", func(p desiredtest.Plain) { p.Networks["n"].Name = model.NetworkBridge }, "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch a.example b.example\noptions ndots:2 rotate\n"},
		{"leased", func(p desiredtest.Plain) {
			p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP}
			p.Endpoints["e"].Lease = &model.Lease{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domain: "leased.example"}
		}, "nameserver 192.0.2.53\nsearch leased.example\noptions ndots:2 rotate\n"},
		{"leased and names", func(p desiredtest.Plain) {
			p.Networks["m"] = &model.Network{ID: "m", Name: "lan", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP}
			p.Endpoints["f"] = &model.Endpoint{ID: "f", NetworkID: "m", SandboxID: "s", IPv4: netip.MustParsePrefix("192.0.2.9/24"), Lease: &model.Lease{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}}
		}, "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:2 rotate\n"},
		{"chosen", func(p desiredtest.Plain) {
			p.Networks["n"].Name = model.NetworkBridge
			p.Sandboxes["s"].Lookup.Servers = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		}, "nameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:2 rotate\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, cfg := world(t)
			tc.change(p)
			New(cfg).Update(p.Snapshot())
			text := read(t, filepath.Join(Dir(cfg.Dir, "s"), ResolvConf))
			if _, text, _ = strings.Cut(text, "\n\n"); !strings.HasPrefix(text, tc.want+"\n#") {
				t.Errorf("%s; want %s", text, tc.want)
			}
		})
	}
}

// A file that someone changed is left alone, also by the next daemon. One whose replacement was interrupted is not
// mistaken for one. The files of a sandbox end with it.
func TestEdited(t *testing.T) {
	p, cfg := world(t)
	f := New(cfg)
	f.Update(p.Snapshot())
	dir := Dir(cfg.Dir, "s")
	hosts, resolv := filepath.Join(dir, Hosts), filepath.Join(dir, ResolvConf)
	if got := read(t, hosts); got != "127.0.0.1\tlocalhost\n10.1.0.2\tbox\n" {
		t.Errorf("hosts:\n%s", got)
	}
	was := read(t, hosts)
	write(t, resolv, "# mine\n")
	sb := *p.Sandboxes["s"]
	sb.Hostname = "other"
	p.Sandboxes["s"] = &sb
	write(t, cfg.ResolvConf, "nameserver 192.0.2.1\n")
	f.Update(p.Snapshot())
	f.followHost()
	if got := read(t, resolv); got != "# mine\n" {
		t.Errorf("resolv.conf became\n%s", got)
	}
	write(t, hosts, was) // as if only the sums had been written
	f = New(cfg)
	f.Update(p.Snapshot())
	if got := read(t, hosts); !strings.Contains(got, "other") || read(t, resolv) != "# mine\n" {
		t.Errorf("after a restart hosts are\n%s", got)
	}
	delete(p.Sandboxes, "s")
	New(cfg).Update(p.Snapshot())
	if _, err := os.Stat(dir); err == nil {
		t.Error("the files remain")
	}
}
