// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

const (
	public4, public6 = "198.18.7.80", "2001:db8:7::80"
	publicPort       = 8080
)

// lan connects hosts and a client by a switch.
func lan(l *lab.Lab, hosts ...*world.Host) (client, sw *world.Host) {
	l.Helper()
	sw = l.NewHost("switch")
	l.IP(sw, "link add br0 type bridge", "link set br0 up")
	client = l.NewHost("client")
	for i, h := range append(hosts, client) {
		port := fmt.Sprint("p", i)
		if err := world.Cable(
			world.End{Host: h, Device: "lan0", Addresses: []string{fmt.Sprintf("198.18.7.%d/24", i+1), fmt.Sprintf("2001:db8:7::%d/64", i+1)}},
			world.End{Host: sw, Device: port},
		); err != nil {
			l.Fatal(err)
		}
		l.IP(sw, "link set "+port+" master br0")
	}
	return client, sw
}

// announced returns what a host shows of the announced addresses of a service.
func announced(l *lab.Lab, service string) string {
	l.Helper()
	return l.Fairlead("service", "ls", "--filter", "name="+service, "--format", "{{.Announced}}")
}

// answered waits until a new connection to an address is answered.
func answered(h *world.Host, address string) error {
	for begin := time.Now(); ; {
		c, err := h.Dial(net.Dialer{Timeout: 50 * time.Millisecond}, "tcp", net.JoinHostPort(address, fmt.Sprint(publicPort)))
		if err == nil {
			return c.Close()
		}
		if time.Since(begin) > 10*time.Second {
			return err
		}
	}
}

// TestAnnounce is a service at addresses that no host has by itself. One of two hosts answers for them, also while its
// daemon is killed and restarted; when the host dies, the other one does within a second.
func TestAnnounce(t *testing.T) {
	p := newPair(t)
	client, sw := lan(p.a, p.a.Host, p.b.Host)
	p.start()
	labs := map[string]*lab.Lab{"a": p.a, "b": p.b}
	p.a.Fairlead("network", "create", "-d", "overlay", "--ipv6", "web")
	has(p.b, "web")
	p.a.Fairlead("service", "create", "--network", "web", "-p", public4+":8080:80", "-p", "["+public6+"]:8080:80", "--announce", "shop")
	owner := ""
	p.a.Eventually(20*time.Second, func() error {
		here, there := announced(p.a, "shop"), announced(p.b, "shop")
		for name := range labs {
			if both := public4 + "@" + name + ", " + public6 + "@" + name; strings.ReplaceAll(here, "*", "") == both && strings.ReplaceAll(there, "*", "") == both {
				owner = name
				return nil
			}
		}
		return fmt.Errorf("a shows %q, b shows %q", here, there)
	})
	other := map[string]string{"a": "b", "b": "a"}[owner]
	dies, lives := labs[owner], labs[other]
	t.Logf("%s announces: %s; %s shows %s", owner, announced(dies, "shop"), other, announced(lives, "shop"))
	// The backend is on the host that will live.
	backend := lives.Sandbox("backend", "--network", "web", "--network-alias", "shop")
	lives.Greet(backend.Host, "backend", 80)
	works := func(when string) {
		t.Helper()
		for address, own := range map[string]string{public4: "198.18.7.3", public6: "2001:db8:7::3"} {
			var g *lab.Greeted
			lives.Eventually(5*time.Second, func() (err error) {
				g, err = lab.Greeting(client, address, publicPort)
				return err
			})
			if g.Client != own {
				t.Errorf("%s: the backend sees %s at %s, want %s", when, g.Client, address, own)
			}
			g.Close()
		}
	}
	works("at first")
	macs := func() (text string) {
		for _, h := range []*world.Host{client, lives.Host} {
			r, _ := h.Run(context.Background(), "ip", "-s", "neigh", "show", "dev", "lan0")
			text += h.Name + ":\n" + r.Output()
		}
		return text
	}
	// The daemon alone is killed: the host keeps the addresses.
	dies.KillDaemon()
	time.Sleep(3 * time.Second)
	if text := announced(lives, "shop"); strings.Contains(text, "*") {
		t.Errorf("the address moved although only the daemon was killed: %s", text)
	}
	works("without the daemon")
	dies.StartDaemon()
	time.Sleep(2 * time.Second)
	if text := announced(dies, "shop"); strings.Count(text, "*") != 2 {
		t.Errorf("the address is not here after the restart of the daemon: %s", text)
	}
	works("after the restart of the daemon")
	// The host dies.
	taken := lives.Metrics()["fairlead_announced_addresses_taken_total"]
	dies.KillDaemon()
	begin := time.Now()
	cables := func(state string) { // those of the host that dies
		port := map[string]string{"a": "0", "b": "1"}[owner]
		lives.IP(sw, "link set p"+port+" "+state)
		lives.IP(p.router, "link set eth"+port+" "+state)
	}
	cables("down")
	var wg sync.WaitGroup
	for _, address := range []string{public4, public6} {
		wg.Go(func() {
			lives.Timed(address+": a new connection after the host's death", time.Second, func() {
				if err := answered(client, address); err != nil {
					t.Errorf("%s: %v", address, err)
				}
			})
		})
	}
	wg.Wait()
	if t.Failed() {
		t.Log(macs())
	}
	t.Logf("%v after the host's death, %s shows %s", time.Since(begin), other, announced(lives, "shop"))
	works("after the host's death")
	if now := lives.Metrics()["fairlead_announced_addresses_taken_total"]; now != taken+2 {
		t.Errorf("%s took %v addresses, want 2", other, now-taken)
	}
	// It comes back with the addresses, and with its daemon: one of the two keeps them.
	cables("up")
	works("after the host's return, without its daemon")
	dies.StartDaemon()
	lives.Eventually(20*time.Second, func() error {
		one, two := strings.Count(announced(dies, "shop"), "*"), strings.Count(announced(lives, "shop"), "*")
		if one+two != 2 {
			return fmt.Errorf("%d addresses are on %s, and %d on %s", one, owner, two, other)
		}
		return nil
	})
	works("after the host's return")
	// The store's host may be the one that died.
	lives.Eventually(20*time.Second, func() error {
		if r := lives.Try("service", "rm", "shop"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	for _, l := range labs {
		l.Eventually(10*time.Second, func() error {
			r, err := l.Host.Run(context.Background(), "ip", "addr", "show", "dev", "lan0")
			if err == nil && (strings.Contains(r.Stdout, public4) || strings.Contains(r.Stdout, public6)) {
				err = fmt.Errorf("an address is left: %s", r.Stdout)
			}
			return err
		})
	}
}
