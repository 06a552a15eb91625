// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// soon is how long the daemon may take to follow a change on the host.
const soon = 5 * time.Second

// talk is a datagram socket with a continuing flow to a server of lab.UDP.
type talk struct{ net.Conn }

func newTalk(l *lab.Lab, h *world.Host, address string, port int) talk {
	l.Helper()
	c, err := h.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	return talk{c}
}

// seen returns the client's address as the server saw it.
func (t talk) seen() (string, error) {
	b := make([]byte, 1500)
	t.SetReadDeadline(time.Now())
	for { // skips late replies
		if _, err := t.Read(b); err != nil {
			break
		}
	}
	t.Write([]byte("hello")) // the read also reports a refusal
	t.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := t.Read(b)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b[:n]))
	if len(fields) != 3 {
		return "", fmt.Errorf("answer %q", b[:n])
	}
	return strings.Trim(fields[1], "[]"), nil
}

// sees expects the server to see an address eventually.
func (t talk) sees(l *lab.Lab, address string) {
	l.Helper()
	l.Eventually(soon, func() error {
		got, err := t.seen()
		if err == nil && got != lab.Expand(address) {
			err = fmt.Errorf("the server sees %s, want %s", got, address)
		}
		return err
	})
}

// flows lists the tracked flows with an address.
func flows(l *lab.Lab, address string) []string {
	l.Helper()
	out := l.Fairlead("ct", "ls", "-f", "addr="+address, "--format",
		"{{.Protocol}} {{.State}} {{.Source}} {{.Destination}} {{.ReplySource}} {{.ReplyDestination}} {{.Network}}")
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

// forgotten is how long the daemon may take to drop a removed address of the host: 10 s, and
// then until its next check.
const forgotten = 10*time.Second + soon

// noFlows expects no flow with an address, soon.
func noFlows(l *lab.Lab, address string) {
	l.Helper()
	noFlowsWithin(l, soon, address)
}

func noFlowsWithin(l *lab.Lab, within time.Duration, address string) {
	l.Helper()
	l.Eventually(within, func() error {
		if list := flows(l, address); len(list) > 0 {
			return fmt.Errorf("flows of %s: %q", address, list)
		}
		return nil
	})
}

func TestUplinkChangesAddress(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "7070:7")
		l.HTTP(b.Host, "ben", 80)
		l.Echo(b.Host, 7)
		l.HTTP(l.Outside, "outside", 80)
		l.UDP(l.Outside, "outside", 53)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			old, outside := f.Of(lab.Host4, lab.Host6), f.Of(lab.Outside4, lab.Outside6)
			next, length := f.Of("192.0.2.9", "2001:db8:1::9"), f.Of("/24", "/64")
			flow := newTalk(l, a.Host, outside, 53)
			flow.sees(l, old)
			if len(flows(l, old)) == 0 {
				l.Errorf("no flow of %s is tracked", old)
			}

			l.IP(l.Host, "addr del "+old+length+" dev eth0", "addr add "+next+length+" dev eth0",
				"route replace "+f.Of("default", "::/0")+" via "+outside)
			flow.sees(l, next)
			l.Get(a.Host, outside, 80, "outside", next)
			l.Eventually(soon, func() error { return l.Reach(lab.Brief, l.Outside, "tcp", next, 7070) })
			l.Get(l.Outside, next, 8080, "ben", outside)
			noFlowsWithin(l, forgotten, old)
		})
	})
}

func TestUplinkGoesAndComes(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{Uplinks: 2}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp")
		l.Echo(b.Host, 80)
		l.Echo(l.Outside, 7)
		l.Echo(l.Outside2, 7)
		var flow [7]talk
		for _, f := range lab.Families() {
			flow[f] = newTalk(l, a.Host, f.Of(lab.Outside4, lab.Outside6), 7)
			flow[f].echoes(l)
		}
		l.IP(l.Host, "link del dev eth0")
		for _, f := range lab.Families() {
			other := f.Of(lab.SecondOutside4, lab.SecondOutside6)
			for _, network := range []string{"tcp", "udp"} {
				if l.Reach(lab.Brief, a.Host, network, f.Of(lab.Outside4, lab.Outside6), 7) == nil {
					l.Errorf("IPv%s, %s: outside is reachable without an uplink", f, network)
				}
				if err := l.Reach(lab.Patient, a.Host, network, other, 7); err != nil {
					l.Errorf("IPv%s, %s: over the other uplink: %v", f, network, err)
				}
			}
		}
		for _, address := range []string{lab.Host4, lab.Host6} {
			noFlowsWithin(l, forgotten, address)
		}
		l.Plug() // another device with the same name
		for _, f := range lab.Families() {
			flow[f].echoes(l)
			for _, network := range []string{"tcp", "udp"} {
				l.Eventually(soon, func() error {
					return errors.Join(l.Reach(lab.Brief, a.Host, network, f.Of(lab.Outside4, lab.Outside6), 7),
						l.Reach(lab.Brief, l.Outside, network, f.Of(lab.Host4, lab.Host6), 8080))
				})
			}
		}
	})
}

// echoes expects an echo eventually.
func (t talk) echoes(l *lab.Lab) {
	l.Helper()
	l.Eventually(soon, func() error {
		t.Write([]byte("hello"))
		t.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := t.Read(make([]byte, 100))
		return err
	})
}

// Flows follow the route, also active ones: replies to their old address would not arrive.
func TestRouteMovesToOtherUplink(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{Uplinks: 2}, func(t *testing.T, l *lab.Lab) {
		web := network(l, "web")
		a := l.Sandbox("anna", "--network", web)
		l.IP(l.Outside2, "addr add "+lab.Internet4+"/32 dev lo", "addr add "+lab.Internet6+"/128 dev lo nodad")
		l.HTTP(l.Outside, "outside", 80)
		l.HTTP(l.Outside2, "outside2", 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			internet, first, second := f.Of(lab.Internet4, lab.Internet6), f.Of(lab.Host4, lab.Host6), f.Of(lab.SecondHost4, lab.SecondHost6)
			l.Answer(l.Outside, "outside", internet, 53)
			l.Answer(l.Outside2, "outside2", internet, 53)
			l.Get(a.Host, internet, 80, "outside", first)
			flow := newTalk(l, a.Host, internet, 53)
			flow.sees(l, first)

			l.IP(l.Host, "route replace "+internet+" via "+f.Of(lab.SecondOutside4, lab.SecondOutside6))
			l.Get(a.Host, internet, 80, "outside2", second)
			flow.sees(l, second)

			l.IP(l.Host, "route del "+internet)
			l.Get(a.Host, internet, 80, "outside", first)
			flow.sees(l, first)
		})
	})
}
