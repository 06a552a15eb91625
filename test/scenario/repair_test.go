// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Damage by other programs is repaired within five seconds, and is counted.
func TestRepairs(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web", "-o", "com.docker.network.host_ipv4="+lab.Host4)
		b := l.Sandbox("ben", "--network", web, "-p", "8080:7,from=0.0.0.0/0,from=::/0")
		a := l.Sandbox("anna", "--network", web)
		l.Echo(b.Host, 7)
		l.Echo(l.Outside, 7)
		l.Echo(l.Host, 9)
		gateway4, gateway6 := l.Gateway(web, lab.IPv4), l.Gateway(web, lab.IPv6)
		works := func() error { return everything(l, gateway4, gateway6, a, b) }
		l.Eventually(soon, works)
		id := l.Network(web).ID
		gateway, hostPort := l.Device("fairlead:gateway:"+id), l.Device("fairlead:hostport:"+id)
		ip := func(commands ...string) func() { return func() { l.IP(l.Host, commands...) } }
		cases := []struct {
			name, kinds string
			spoil       func()
		}{
			{"gateway device deleted", "device", ip("link del dev " + gateway)},
			{"host port deleted", "device", ip("link del dev " + hostPort)},
			{"gateway device down", "device", ip("link set dev " + gateway + " down")},
			{"host port down", "device", ip("link set dev " + hostPort + " down")},
			{"endpoint deleted", "device", ip("link del dev " + l.Device(endpointAlias(l, b)))},
			{"endpoint down", "device", ip("link set dev " + l.Device(endpointAlias(l, b)) + " down")},
			{"gateway address changed", "address", ip(
				"addr del "+gateway4+"/16 dev "+gateway, "addr add 10.99.0.1/24 dev "+gateway,
				"addr del "+gateway6+"/64 dev "+gateway)},
			{"forwarding off, IPv4", "sysctl", func() { l.Sysctl(l.Host, "ipv4/conf/"+gateway+"/forwarding", "0") }},
			{"forwarding off, IPv6", "sysctl", func() { l.Sysctl(l.Host, "ipv6/conf/"+gateway+"/forwarding", "0") }},
			{"endpoints' programs detached", "program", func() { detach(l, "from_endpoint", endpointAlias(l, b)) }},
			{"uplink's programs detached", "program", func() { detach(l, "*uplink", "") }},
			{"programs of the cgroup detached", "program", func() { l.DetachLinks("cgroup-*") }},
		}
		for _, tc := range cases {
			l.Case(tc.name, func(l *lab.Lab) { l.Repaired(tc.kinds, tc.spoil, works) })
		}
		l.Case("files of a sandbox deleted", func(l *lab.Lab) {
			files, err := filepath.Glob(filepath.Join(l.Dir("run"), "etc", l.Inspect("ben").ID[:12], "*"))
			if err != nil || len(files) != 6 {
				l.Fatalf("files %v, %v", files, err)
			}
			l.Repaired("file", func() {
				for _, path := range files {
					if err := os.Remove(path); err != nil {
						l.Fatal(err)
					}
				}
			}, func() error {
				if r := l.Try("exec", "ben", "cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"); r.Code != 0 {
					return errors.New(r.Output())
				}
				return nil
			})
		})
		for _, table := range controlTables() {
			repairedTable(l, table, works)
		}
		pins := []string{"links"}
		if l.Config.Clsact {
			pins = append(pins, "filters")
		}
		for _, dir := range pins {
			l.Case("pins in "+dir+" removed", func(l *lab.Lab) { pinsRemoved(l, dir+"/*", dir+"/*", works) })
		}
		l.Case("directories of pins removed", func(l *lab.Lab) { pinsRemoved(l, "*[^g]", "[mp]*/*", works) })
		l.Case("flows removed", func(l *lab.Lab) {
			for _, table := range []string{"fl_ct", "fl_ct_new", "fl_frag", "fl_sock_rev"} {
				l.EmptyMap(table)
			}
			l.Eventually(soon, works) // the datapath's own entries: new flows are equally good
		})
		l.Case("sandbox's namespace removed", func(l *lab.Lab) { namespaceRemoved(l, web) })
	})
}

// everything checks all that an operator would miss.
func everything(l *lab.Lab, gateway4, gateway6 string, a, b *lab.Sandbox) error {
	var errs []error
	for _, f := range lab.Families() {
		errs = append(errs,
			l.Reach(lab.Brief, a.Host, "tcp", b.IP(f), 7),
			l.Reach(lab.Brief, a.Host, "tcp", f.Of(gateway4, gateway6), 9),
			l.Reach(lab.Brief, a.Host, "tcp", f.Of(lab.Outside4, lab.Outside6), 7),
			l.Reach(lab.Brief, l.Host, "tcp", b.IP(f), 7),
			l.Reach(lab.Brief, l.Host, "tcp", f.Of("127.0.0.1", "::1"), 8080),
			l.Reach(lab.Brief, l.Outside, "tcp", f.Of(lab.Host4, lab.Host6), 8080),
		)
	}
	return errors.Join(errs...)
}

func endpointAlias(l *lab.Lab, s *lab.Sandbox) string {
	l.Helper()
	for _, e := range l.Inspect(s.Name).NetworkSettings.Networks {
		return "fairlead:endpoint:" + e.EndpointID
	}
	l.Fatalf("sandbox %s has no endpoint", s.Name)
	return ""
}

// detach detaches programs from the uplink eth0, or from the endpoint with the alias.
func detach(l *lab.Lab, hook, alias string) {
	l.Helper()
	device := "eth0"
	if alias != "" {
		device = l.Device(alias)
	}
	if l.Config.Clsact {
		l.Must(l.Host, "tc", "qdisc", "del", "dev", device, "clsact")
		return
	}
	var index int
	fmt.Sscan(l.Must(l.Host, "ip", "-oneline", "link", "show", "dev", device), &index)
	if n := l.DetachLinks(fmt.Sprintf("%s-%d", hook, index)); n == 0 {
		l.Errorf("no link %s of %s", hook, device)
	}
}

// pinsRemoved removes pins from the bpffs, or directories of pins, and expects that some are there again. (A name that
// ends with g is of a file of the kernel's.)
func pinsRemoved(l *lab.Lab, which, again string, works func() error) {
	l.Helper()
	find := func(pattern string) (found []string) {
		err := l.Host.Do(func() (err error) {
			found, err = filepath.Glob(filepath.Join(l.Dir("bpf"), pattern))
			return err
		})
		if err != nil {
			l.Fatal(err)
		}
		return found
	}
	before, spoiled := find(again), find(which)
	if len(spoiled) == 0 {
		l.Fatal("nothing matches " + which)
	}
	l.Repaired("program", func() {
		err := l.Host.Do(func() error {
			var errs []error
			for _, path := range spoiled {
				errs = append(errs, os.RemoveAll(path))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			l.Fatal(err)
		}
	}, func() error {
		if now := find(again); !slices.Equal(now, before) {
			return fmt.Errorf("pins are %v, want %v", now, before)
		}
		return works()
	})
}

// A namespace that other programs remove does not prevent verbs (A47).
func namespaceRemoved(l *lab.Lab, web string) {
	l.Helper()
	remove := func(path string) {
		l.Helper()
		// The daemon is notified of the devices removed with the namespace, and may have
		// recreated it between the two steps.
		l.Eventually(soon, func() error {
			return l.Host.Do(func() error {
				if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
					return err
				}
				return unix.Unlink(path)
			})
		})
	}
	l.Fairlead("sandbox", "create", "--network", web, "-p", "8090:80", "lost")
	path := l.Inspect("lost").NetworkSettings.SandboxKey
	remove(path)
	l.Fairlead("rm", "lost")
	l.Fairlead("sandbox", "create", "--network", web, "-p", "8090:80", "lost")
	path = l.Inspect("lost").NetworkSettings.SandboxKey
	l.Repaired("namespace", func() { remove(path) }, func() error {
		h, err := l.Host.Enter("lost", path)
		if err != nil {
			return err
		}
		defer h.Close()
		return l.Reach(lab.Brief, h, "tcp", l.Gateway(web, lab.IPv4), 9)
	})
	remove(path)
	l.Fairlead("network", "disconnect", web, "lost")
	l.Fairlead("network", "connect", web, "lost")
	l.Fairlead("rm", "lost")
}
