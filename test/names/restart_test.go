// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/machine"
)

// Without systemd, queries that are sent while one daemon takes over from another, or while none runs, are lost; not for longer than
// docs/limits.md says.
func TestGapWithoutSystemd(t *testing.T) {
	n := newNames(t)
	n.Fairlead("network", "create", "--subnet", "10.66.0.0/24", "web")
	n.Sandbox("ben", "--network", "web")
	anna := n.Sandbox("anna", "--network", "web")
	n.digs(anna.Host, "10.66.0.2", "@"+resolver, "ben")
	for _, tc := range []struct {
		name  string
		limit time.Duration
		do    func()
	}{
		{"taken over", time.Second, func() { n.StartDaemon() }},
		{"taken over by another build", 2 * time.Second, func() { n.StartDaemon("--snat-ports", "20000-24999") }},
		{"killed and started at once", 2 * time.Second, func() { n.KillDaemon(); n.StartDaemon() }},
	} {
		watch := machine.Start()
		stop := n.queries(anna.Host)
		time.Sleep(200 * time.Millisecond)
		tc.do()
		time.Sleep(200 * time.Millisecond)
		sent, lost, gap := stop()
		watch.Stop()
		t.Logf("%s: %d of %d queries were lost, within %v", tc.name, lost, sent, gap)
		if limit := watch.Stretch(tc.limit); gap > limit {
			t.Errorf("%s: queries were lost for %v, want %v at most", tc.name, gap, limit)
		}
		n.digs(anna.Host, "10.66.0.2", "@"+resolver, "ben")
	}
}

// queries sends a query each 10 ms until the returned function is called, which returns how many were sent and not answered within
// two seconds, and the time from the first of these to the last.
func (n *names) queries(h *world.Host) (stop func() (sent, lost int, gap time.Duration)) {
	n.Helper()
	q, err := new(dns.Msg).SetQuestion("ben.", dns.TypeA).Pack()
	if err != nil {
		n.Fatal(err)
	}
	var (
		mu          sync.Mutex
		sent, lost  int
		first, last time.Time
		all         sync.WaitGroup
	)
	ask := func(began time.Time) {
		c, err := h.ListenPacket("udp4", ":0")
		if err != nil {
			n.Error(err)
			return
		}
		defer c.Close()
		if err := c.SetDeadline(began.Add(2 * time.Second)); err != nil {
			n.Error(err)
			return
		}
		_, err = c.WriteTo(q, &net.UDPAddr{IP: net.ParseIP(resolver), Port: 53})
		if err == nil {
			_, _, err = c.ReadFrom(make([]byte, 512))
		}
		mu.Lock()
		defer mu.Unlock()
		sent++
		if err == nil {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			n.Errorf("a query: %v", err)
		}
		lost++
		if first.IsZero() || began.Before(first) {
			first = began
		}
		if began.After(last) {
			last = began
		}
	}
	end := make(chan struct{})
	all.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case now := <-tick.C:
				all.Go(func() { ask(now) })
			}
		}
	})
	return func() (int, int, time.Duration) {
		close(end)
		all.Wait()
		return sent, lost, last.Sub(first)
	}
}
