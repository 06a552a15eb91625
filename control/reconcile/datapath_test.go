// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
	"github.com/fairlead-net/fairlead/loader"
)

// testCgroup creates an empty cgroup, so that the machine's processes are not affected.
func testCgroup(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			dir := filepath.Join(f[1], fmt.Sprintf("fairlead-test-%d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(dir) })
			return dir
		}
	}
	t.Fatal("cgroup2 is not mounted")
	return ""
}

// TestRealDatapath runs a Reconciler on the real loader and tables, sends traffic between two
// sandboxes and the host, and restarts.
func TestRealDatapath(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) { testRealDatapath(t, clsact) })
	}
}

func testRealDatapath(t *testing.T, clsact bool) {
	w := newWorld(t)
	cfg := loader.Config{
		BPFDir: filepath.Join(w.dir, "bpf"), CgroupRoot: testCgroup(t), ForceClsact: clsact, NetnsCookie: 7,
		CTMax: 1024, MaxEndpoints: 64, MaxPublishes: 64,
	}
	t.Cleanup(func() {
		if err := loader.Cleanup(cfg.BPFDir, tc.NewFilters(w.nl)); err != nil {
			t.Error(err)
		}
	})
	start := func(p *plan) (*loader.Datapath, *Reconciler) {
		d, err := loader.Open(cfg, tc.NewFilters(w.nl))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		r := New(Config{NetNSDir: w.netnsDir(), Log: w.log}, d, tables.Of(d.Maps()), w.nl)
		w.r = r
		w.apply(p)
		return d, r
	}
	ip(t, "link", "set", "lo", "up")
	p := w.plan()
	n := p.network("net", 7)
	a, b := p.sandbox("a"), p.sandbox("b")
	ea, eb := p.endpoint(a, n), p.endpoint(b, n)
	p.publish(1, ea, netip.Addr{}, 8080, 1)
	first, _ := start(p)
	if r := w.resync(); r.Total() != 0 {
		t.Errorf("repairs just after the start: %v", r)
	}
	for _, to := range []netip.Addr{eb.IPv4.Addr(), eb.IPv6.Addr()} {
		listener := w.listen(b, to)
		w.dial(a, listener)
		w.dial(nil, listener) // from the host
	}

	attached, err := first.Attached()
	if err != nil {
		t.Fatal(err)
	}
	second, _ := start(p)
	again, err := second.Attached()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(attached, again); diff != "" {
		t.Errorf("attachments after a restart (-before +after):\n%s", diff)
	}
	if r := w.resync(); r.Total() != 0 {
		t.Errorf("repairs after a restart: %v", r)
	}

	// Another program detaches a program and removes an entry.
	host := int(w.link(rtnl.EndpointAlias(ea.ID)).Index)
	if err := second.Detach(host, loader.FromEndpoint); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(cfg.BPFDir, "links")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(cfg.BPFDir, "links"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := w.resync(); r[report.Program] == 0 {
		t.Errorf("repairs of detached programs: %v", r)
	}
	clear(p.s.Publishes)
	clear(p.s.Endpoints)
	clear(p.s.Sandboxes)
	clear(p.s.Networks)
	w.apply(p)
	if left, err := second.Attached(); err != nil || len(left) > 0 {
		t.Errorf("attachments at the end: %v, %v", left, err)
	}
	if n := second.Maps().Endpoints.Len() + second.Maps().Publishes.Len() + second.Maps().FDB.Len(); n > 0 {
		t.Errorf("%d entries at the end", n)
	}
}

// listen accepts connections at an address of a sandbox.
func (w *world) listen(b *model.Sandbox, at netip.Addr) net.Listener {
	w.tb.Helper()
	var l net.Listener
	w.inNetNS(b, func(*rtnl.Handle) (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 80)))
		return err
	})
	w.tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	return l
}

// dial connects from a sandbox, or from the host if b is nil, and expects a greeting without
// retransmissions, that is, that no packet is lost.
func (w *world) dial(b *model.Sandbox, l net.Listener) {
	w.tb.Helper()
	greet := func(*rtnl.Handle) error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 5)
		if _, err = c.Read(buf); err != nil {
			return err
		}
		if n, err := resent(c.(*net.TCPConn)); n > 0 || err != nil {
			return fmt.Errorf("%d segments to %v were retransmitted (%v)", n, l.Addr(), err)
		}
		return nil
	}
	if b == nil {
		if err := w.nl.Do(func() error { return greet(w.nl) }); err != nil {
			w.tb.Errorf("from the host: %v", err)
		}
	} else {
		w.inNetNS(b, greet)
	}
}

// resent returns how many segments this end of a connection retransmitted, without those that the
// peer had already received (spurious retransmissions while it had to wait).
func resent(c *net.TCPConn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); failed == nil {
			n = max(0, int(info.Total_retrans)-int(info.Dsack_dups))
		}
	})
	return n, errors.Join(err, failed)
}
