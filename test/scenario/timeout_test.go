// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// idleStates lists the states in which a flow can stay idle without a peer that violates the
// protocol; the datapath's own tests have all states.
var idleStates = []string{
	"syn_sent", "established", "fin_wait", "time_wait", "close", "udp_new", "udp_replied", "udp_stream", "icmp", "other",
}

// Idle flows expire as --ct-timeout sets it, each state after its own time: every second
// state is short in one lab and long in the other. The daemon of one has another clock than the
// programs, since it is in a time namespace.
func TestIdleFlows(t *testing.T) {
	t.Parallel()
	for half := range 2 {
		t.Run(fmt.Sprint("half ", half), func(t *testing.T) {
			t.Parallel()
			var args, short, long []string
			for i, state := range idleStates {
				if i%2 == half {
					short, args = append(short, state), append(args, "--ct-timeout", state+"=5s")
				} else {
					long, args = append(long, state), append(args, "--ct-timeout", state+"=10m")
				}
			}
			cfg := lab.Config{DaemonArgs: args}
			if half == 1 {
				cfg.DaemonUnder = []string{"unshare", "--time", "--monotonic", "1000000"}
			}
			idleFlows(lab.New(t, cfg), short, long)
		})
	}
}

func idleFlows(l *lab.Lab, short, long []string) {
	a := l.Sandbox("anna", "--network", network(l, "web"))
	l.Echo(l.Outside, 7)
	holder, err := l.Outside.Listen("tcp", ":9") // accepts, and never closes
	if err != nil {
		l.Fatal(err)
	}
	defer holder.Close()
	for _, f := range lab.Families() {
		before := idleFlow(l, a, f)
		for _, state := range idleStates {
			if !slices.Contains(before, state) {
				l.Errorf("IPv%s: no flow was in state %s, only in %v", f, state, before)
			}
		}
	}
	for _, f := range lab.Families() {
		l.Eventually(45*time.Second, func() error {
			for _, state := range states(l, a, f) {
				if slices.Contains(short, state) {
					return fmt.Errorf("IPv%s: a flow in state %s has not expired", f, state)
				}
			}
			return nil
		})
		if left := states(l, a, f); !slices.Equal(left, slices.Sorted(slices.Values(long))) {
			l.Errorf("IPv%s: flows in states %v are left, want %v", f, left, long)
		}
	}
}

// states returns the states of a sandbox's flows, sorted.
func states(l *lab.Lab, a *lab.Sandbox, f lab.Family) (list []string) {
	l.Helper()
	for _, flow := range flows(l, a.IP(f)) {
		list = append(list, strings.Fields(flow)[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// idleFlow makes a flow in each state, leaves it idle, and returns the observed states.
func idleFlow(l *lab.Lab, a *lab.Sandbox, f lab.Family) (seen []string) {
	l.Helper()
	outside, nobody := f.Of(lab.Outside4, lab.Outside6), f.Of("198.51.100.77", "2001:db8:100::77")
	for _, begin := range []func(){
		func() { // for longer than the two seconds that make it a stream, which are counted in whole ones
			c, err := a.Dial(net.Dialer{}, "udp", net.JoinHostPort(outside, "7"))
			if err != nil {
				l.Fatal(err)
			}
			defer c.Close()
			for begun := time.Now(); time.Since(begun) < 4*time.Second; time.Sleep(100 * time.Millisecond) {
				io.WriteString(c, "hello") // losses do not matter
			}
		},
		func() {
			stream(l, a.Host, outside, 7)
			stream(l, a.Host, outside, 7).Close()
			reset := stream(l, a.Host, outside, 7).(*net.TCPConn)
			reset.SetLinger(0)
			reset.Close()
			half, err := a.Dial(net.Dialer{Timeout: 2 * time.Second, KeepAlive: -1}, "tcp", net.JoinHostPort(outside, "9"))
			if err != nil {
				l.Fatal(err)
			}
			l.Cleanup(func() { half.Close() })
			half.(*net.TCPConn).CloseWrite()
		},
		func() {
			if _, err := a.Dial(net.Dialer{Timeout: 300 * time.Millisecond}, "tcp", net.JoinHostPort(nobody, "7")); err == nil {
				l.Errorf("%s answers", nobody)
			}
			if err := l.Reach(lab.Patient, a.Host, "udp", outside, 7); err != nil {
				l.Error(err)
			}
			l.Ping(a.Host, outside)
			for _, network := range []string{"udp", "ip" + f.String() + ":253"} {
				address := net.JoinHostPort(nobody, "7")
				if network != "udp" {
					address = nobody
				}
				c, err := a.Dial(net.Dialer{}, network, address)
				if err != nil {
					l.Fatal(err)
				}
				io.WriteString(c, "hello")
				c.Close()
			}
		},
	} {
		begin()
		seen = append(seen, states(l, a, f)...)
	}
	return seen
}
