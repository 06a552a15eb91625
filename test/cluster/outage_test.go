// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/test/lab"
)

// The duration of `make outage` is in the Makefile.
var (
	outageFlag = flag.Duration("outage", 10*time.Second, "how long the store of TestOutage is away")
	storeFlag  = flag.String("store", "etcd", "the store of TestOutage: etcd, consul or zk")
)

// longestConvergence is how long after an outage both hosts may take to agree again.
const longestConvergence = 5 * time.Second

// TestOutage kills the store while a hundred streams run between the hosts, and verbs on both: no connection
// is lost and no entry deleted, removals and local verbs work, and what needs the store is refused. Then both
// hosts agree again.
func TestOutage(t *testing.T) {
	p, startStore := newPairOn(t, *storeFlag)
	p.start()
	one, two := p.share("web", "one", "two")
	hosts := map[string]*lab.Lab{"a": p.a, "b": p.b}
	const spares = 3 // sandboxes on each host that are removed without the store
	spare := func(host string, i int) string { return fmt.Sprintf("spare-%s-%d", host, i) }
	members := []string{"one", "two"}
	for host, l := range hosts {
		for i := range spares {
			l.Fairlead("sandbox", "create", "--network", "web", spare(host, i))
			members = append(members, spare(host, i))
		}
	}
	for _, l := range hosts {
		hasMembers(l, 10*time.Second, members)
	}
	load := p.b.StartLoad("across hosts", two.Host, p.a.Echo(one.Host, 7000), net.JoinHostPort(one.IP4.String(), "7000"))
	var unchanged []func()
	for _, l := range hosts {
		unchanged = append(unchanged, peerTables(l))
	}
	p.kill()
	began := time.Now()
	rounds := 0
	for ; rounds == 0 || time.Since(began) < *outageFlag; rounds++ {
		for host, l := range hosts {
			l.Timed("creation of a local sandbox", 3*time.Second, func() { l.Fairlead("sandbox", "create", "local") })
			l.Timed("removal of a local sandbox", 2*time.Second, func() { l.Fairlead("rm", "local") })
			if rounds < spares {
				l.Timed("removal of a sandbox of a shared network", 2*time.Second, func() { l.Fairlead("rm", spare(host, rounds)) })
			}
			l.Timed("refusal", 7*time.Second, func() {
				l.Refused(1, []string{"cluster", *storeFlag + "://"}, "sandbox", "create", "--network", "web", "more")
			})
		}
		if rounds == spares { // from what it last saw
			p.b.KillDaemon()
			p.b.StartDaemon()
		}
		time.Sleep(time.Second)
	}
	t.Logf("%d rounds of verbs in %v without the store", rounds, time.Since(began).Round(time.Second))
	for _, check := range unchanged {
		check()
	}
	startStore()
	began = time.Now()
	members = []string{"one", "two"}
	for host, l := range hosts {
		for i := rounds; i < spares; i++ {
			members = append(members, spare(host, i))
		}
		name := "new-" + host
		l.Eventually(longestConvergence, func() error {
			if r := l.Try("sandbox", "create", "--network", "web", name); r.Code != 0 {
				return errors.New(r.Stderr)
			}
			return nil
		})
		members = append(members, name)
	}
	for _, l := range hosts {
		hasMembers(l, longestConvergence, members)
	}
	t.Logf("the hosts agree %v after the store answered", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > longestConvergence {
		t.Errorf("the hosts agree %v after the store answered, want at most %v", took, longestConvergence)
	}
	report := load.Stop()
	t.Logf("load: %v", report)
	if len(report.Errors) > 0 || report.Lost > 0 {
		t.Errorf("the traffic was disturbed: %v", report.Disturbances(time.Minute))
	}
}

// hasMembers waits until a host lists exactly these sandboxes in the network web.
func hasMembers(l *lab.Lab, within time.Duration, names []string) {
	l.Helper()
	want := slices.Sorted(slices.Values(names))
	l.Eventually(within, func() error {
		var got []string
		for _, m := range l.Network("web").Containers {
			got = append(got, m.Name)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("members %q, want %q", got, want)
		}
		return nil
	})
}
