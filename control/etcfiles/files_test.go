// SPDX-License-Identifier: Apache-2.0

package etcfiles

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
		{"a router's network", func(p desiredtest.Plain) { p.Networks["n"].Driver = model.DriverMacvlan }, "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:2 rotate\n"},
		{"leased", func(p desiredtest.Plain) {
			p.Networks["n"] = &model.Network{ID: "n", Name: "web", Driver: model.DriverMacvlan, IPAM: model.IPAMDHCP}
			p.Endpoints["e"].Lease = &model.Lease{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domain: "leased.example"}
		}, "nameserver 127.0.0.11\nsearch leased.example\noptions ndots:2 rotate\n"},
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

// host-gateway is where the sandbox reaches the host: the gateway of a network that has it there, or the host's own address.
func TestHostGateway(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(p desiredtest.Plain)
		want   []string
	}{
		{"bridge", func(desiredtest.Plain) {}, []string{"10.1.0.1"}},
		{"macvlan", func(p desiredtest.Plain) { p.Networks["n"].Driver = model.DriverMacvlan }, nil},
		{"macvlan with access", func(p desiredtest.Plain) {
			p.Networks["n"].Driver, p.Networks["n"].NodeIPv4 = model.DriverMacvlan, netip.MustParseAddr("10.1.0.9")
		}, []string{"10.1.0.9"}},
		{"macvlan and bridge", func(p desiredtest.Plain) {
			p.Networks["m"] = &model.Network{ID: "m", Name: "lan", Driver: model.DriverMacvlan, Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.1")}}}
			p.Endpoints["f"] = &model.Endpoint{ID: "f", NetworkID: "m", SandboxID: "s", IPv4: netip.MustParsePrefix("192.0.2.9/24"), DefaultRoute4: true}
		}, []string{"10.1.0.1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, cfg := world(t)
			p.Sandboxes["s"].Lookup.Hosts = []model.HostLine{{Name: "up"}}
			tc.change(p)
			New(cfg).Update(p.Snapshot())
			var got []string
			for line := range strings.Lines(read(t, filepath.Join(Dir(cfg.Dir, "s"), Hosts))) {
				if a, ok := strings.CutSuffix(line, "\tup\n"); ok {
					got = append(got, a)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("it is %v, want %v", got, tc.want)
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
	f.follow()
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

// Files that could not be written, because the disk is full, keep their contents, are not mistaken for files that
// someone edited, and are written as soon as there is room. The warning is logged once.
func TestDiskFull(t *testing.T) {
	p, cfg := world(t)
	cfg.Dir = t.TempDir()
	if err := unix.Mount("tmpfs", cfg.Dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(cfg.Dir, unix.MNT_DETACH) })
	var log strings.Builder
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	f := New(cfg)
	f.Update(p.Snapshot())
	paths := map[string]string{}
	for _, name := range []string{Hosts, Hostname, ResolvConf} {
		path := filepath.Join(Dir(cfg.Dir, "s"), name)
		paths[path] = read(t, path)
	}
	full := filepath.Join(cfg.Dir, "full")
	fill(t, full, 0)
	long := strings.Repeat("l", 60)
	search := strings.Repeat("a."+long+" ", 200) // the file needs several pages more than it has
	write(t, cfg.ResolvConf, "nameserver 192.0.2.1\nsearch "+search+"\n")
	sb := *p.Sandboxes["s"]
	sb.Hostname = "other"
	p.Sandboxes["s"] = &sb
	f.Update(p.Snapshot())
	f.follow()
	for path, was := range paths {
		if got := read(t, path); got != was {
			t.Errorf("%s on a full disk:\n%.200s\nwant\n%s", path, got, was)
		}
	}
	// One page is enough for the sums and not for a longer file.
	fill(t, full, 4096)
	f.follow()
	if got, was := read(t, filepath.Join(Dir(cfg.Dir, "s"), ResolvConf)), paths[filepath.Join(Dir(cfg.Dir, "s"), ResolvConf)]; got != was {
		t.Errorf("resolv.conf in a page too little:\n%.200s\nwant\n%s", got, was)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	f.follow()
	for path := range paths {
		want := "other"
		if strings.HasSuffix(path, ResolvConf) {
			want = long
		}
		if got := read(t, path); !strings.Contains(got, want) {
			t.Errorf("%s after there is room:\n%s", path, got)
		}
	}
	if extra, _ := filepath.Glob(filepath.Join(Dir(cfg.Dir, "s"), "*.next")); len(extra) > 0 {
		t.Errorf("left behind: %q", extra)
	}
}

// fill makes a file that fills its file system but for some bytes.
func fill(t *testing.T, path string, but int64) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	at, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		err = file.Truncate(at - but)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A daemon that is killed between any two steps of a replacement leaves a file that the next one recognises.
func TestReplaceInterrupted(t *testing.T) {
	for name, text := range map[string]string{"shorter": "new\n", "longer": "a new text that is longer\n", "empty": ""} {
		for step := range 4 {
			t.Run(fmt.Sprint(name, step), func(t *testing.T) {
				const old = "the old text\n"
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				if err := replace(path, old); err != nil {
					t.Fatal(err)
				}
				sums := read(t, path+".sum")
				if err := replace(path, text); err != nil {
					t.Fatal(err)
				}
				switch step { // back to what a daemon leaves that was killed there
				case 0: // while it wrote the sums
					write(t, path, old)
					write(t, path+".sum", sums)
					write(t, path+".sum.next", "1234")
				case 1: // after the sums
					write(t, path, old)
				case 2: // before the truncation
					if len(text) < len(old) {
						write(t, path, text+old[len(text):])
					}
				}
				if err := replace(path, "newest\n"); err != nil || read(t, path) != "newest\n" {
					t.Errorf("%v, the file has %q", err, read(t, path))
				}
			})
		}
	}
}

// An endpoint that an engine reserves, moves to a sandbox, and releases again, changes no file of another sandbox.
func TestReservedEndpoint(t *testing.T) {
	p, cfg := world(t)
	f := New(cfg)
	f.Update(p.Snapshot())
	hosts := filepath.Join(Dir(cfg.Dir, "s"), Hosts)
	was := read(t, hosts)
	reserved := &model.Endpoint{ID: "r", NetworkID: "n", IPv4: netip.MustParsePrefix("10.1.0.3/16")}
	joined := *reserved
	joined.SandboxID = "engine"
	p.Sandboxes["engine"] = &model.Sandbox{ID: "engine", Name: "docker-1", ManagedBy: model.ByEngine}
	for step, ep := range []*model.Endpoint{reserved, &joined, reserved, nil} {
		if p.Endpoints["r"] = ep; ep == nil {
			delete(p.Endpoints, "r")
		}
		f.Update(p.Snapshot())
		if got := read(t, hosts); got != was {
			t.Errorf("step %d: hosts are\n%s", step, got)
		}
	}
}

// Files that were deleted are written again, and counted; what a user has changed stays, and a sandbox that is removed or
// has no files gets none.
func TestDeleted(t *testing.T) {
	p, cfg := world(t)
	p.Sandboxes["none"] = &model.Sandbox{ID: "none", NetworkMode: "web", NetNS: "/m", ManagedBy: model.ByRuntime}
	f := New(cfg)
	f.Update(p.Snapshot())
	dir := Dir(cfg.Dir, "s")
	before := map[string]string{}
	names := []string{Hosts, Hostname, ResolvConf, Hosts + sums, Hostname + sums, ResolvConf + sums}
	for _, name := range names {
		before[name] = read(t, filepath.Join(dir, name))
	}
	expect := func(what string, repaired int) {
		t.Helper()
		if n := f.follow(); n != repaired {
			t.Errorf("%s: %d files repaired, want %d", what, n, repaired)
		}
		for name, text := range before {
			if got := read(t, filepath.Join(dir, name)); got != text {
				t.Errorf("%s: %s is %q, want %q", what, name, got, text)
			}
		}
	}
	remove := func(path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	expect("nothing", 0)
	for _, name := range names {
		remove(filepath.Join(dir, name))
		expect(name, 1)
	}
	remove(dir)
	expect("the directory", len(names))
	remove(cfg.Dir)
	expect("all directories", len(names))
	mine := "127.0.0.1 mine\n"
	write(t, filepath.Join(dir, Hosts), mine)
	before[Hosts] = mine
	remove(filepath.Join(dir, Hostname))
	expect("beside one that a user changed", 1)
	if dirs, _ := os.ReadDir(cfg.Dir); len(dirs) != 1 {
		t.Errorf("directories %v", dirs)
	}
	delete(p.Endpoints, "e")
	delete(p.Sandboxes, "s")
	f.Update(p.Snapshot())
	if n := f.follow(); n != 0 {
		t.Errorf("%d files of a removed sandbox repaired", n)
	}
}
