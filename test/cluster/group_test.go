// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// TestGroups is a multicast group whose sender is on one of three hosts: a host without listeners gets no
// copies, one with a listener gets all, also while daemons are killed and restarted, and a listener that
// comes while no daemon runs is found.
func TestGroups(t *testing.T) {
	p := newPair(t).start()
	a, b := p.a, p.b
	c := lab.New(t, lab.Config{NoDaemon: true, DaemonArgs: []string{"--store", storeURL, "--advertise", "10.98.3.1", "--node-name", "c"}})
	if err := world.Cable(
		world.End{Host: c.Host, Device: "eth1", Addresses: []string{"10.98.3.1/24"}},
		world.End{Host: p.router, Device: "eth2", Addresses: []string{"10.98.3.254/24"}},
	); err != nil {
		t.Fatal(err)
	}
	c.IP(c.Host, "route add 10.98.0.0/16 via 10.98.3.254")
	c.StartDaemon()
	a.Fairlead("network", "create", "-d", "overlay", "web")
	has(b, "web")
	has(c, "web")
	one, two, three := a.Sandbox("one", "--network", "web"), b.Sandbox("two", "--network", "web"), c.Sandbox("three", "--network", "web")
	group := net.UDPAddr{IP: net.ParseIP("239.5.5.5"), Port: 5000}
	const text = "a datagram to the group"
	toC := lab.Hear(t, p.router, "eth2", text)
	sender, err := one.Dial(net.Dialer{}, "udp", group.String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	atB := lab.Join(t, two.Host, group)
	// received sends a datagram, and expects it at a listener.
	received := func(at *net.UDPConn, within time.Duration) error {
		at.SetReadDeadline(time.Now().Add(within))
		if _, err := fmt.Fprint(sender, text); err != nil {
			return err
		}
		_, err := at.Read(make([]byte, 100))
		return err
	}
	spared := func() error {
		before := toC.Load()
		for range 10 {
			if err := received(atB, 2*time.Second); err != nil {
				t.Fatalf("b: %v", err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if n := toC.Load() - before; n > 0 {
			return fmt.Errorf("%d of 10 datagrams left for c, which does not listen", n)
		}
		return nil
	}
	begin := time.Now()
	a.Eventually(30*time.Second, spared)
	t.Logf("c was spared %v after its first sandbox", time.Since(begin))
	join := func() *net.UDPConn {
		t.Helper()
		begin, at := time.Now(), lab.Join(t, three.Host, group)
		for {
			switch err := received(at, 20*time.Millisecond); {
			case err == nil:
				t.Logf("c listened, and received after %v", time.Since(begin))
				return at
			case !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > time.Second:
				t.Fatalf("c listens, and received nothing for %v: %v", time.Since(begin), err)
			}
		}
	}
	atC := join()
	atC.Close()
	begin = time.Now()
	drain(atB)
	a.Eventually(20*time.Second, spared)
	t.Logf("c left, and was spared after %v", time.Since(begin))
	for _, l := range []*lab.Lab{c, b, a} {
		l.KillDaemon()
	}
	if err := spared(); err != nil {
		t.Errorf("without daemons: %v", err)
	}
	atC = join()
	drain(atB)
	for _, l := range []*lab.Lab{a, b, c} {
		l.StartDaemon()
		for range 40 {
			if err := received(atB, 2*time.Second); err != nil {
				t.Fatalf("a daemon was restarted; b: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	drain(atC)
	if err := received(atC, 2*time.Second); err != nil {
		t.Errorf("daemons were restarted; c: %v", err)
	}
	atC.Close()
	drain(atB)
	a.Eventually(20*time.Second, spared)
}

// drain reads what has arrived.
func drain(c *net.UDPConn) {
	for buf := make([]byte, 100); ; {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
