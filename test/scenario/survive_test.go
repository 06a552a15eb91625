// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/test/lab"
)

// longestTransit is the limit on the one-way time of a datagram while a daemon is replaced.
const longestTransit = 50 * time.Millisecond

// retryTime limits, for each test, the tries that the machine disturbed: a test that never
// sees its event observes nothing. Where the senders of several packages keep a processor busy, which have
// real-time priority, the kernel gives 50 ms of each second to other tasks (its fair server).
const retryTime = 5 * time.Minute

// The modes run one after the other, and no other lab runs in parallel.
func TestDaemonExchangedUnderLoad(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		t.Run(mode(clsact), func(t *testing.T) {
			exchangeUnderLoad(t, lab.New(t, lab.Config{Clsact: clsact}))
		})
	}
}

func exchangeUnderLoad(t *testing.T, l *lab.Lab) {
	web := network(l, "web")
	b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp")
	a := l.Sandbox("anna", "--network", web)
	r := route{
		retries: &retries{left: retryTime},
		from:    a, reached: l.Echo(a.Host, 80), inside: l.Echo(b.Host, 80), outside: l.Echo(l.Outside, 7),
	}
	r.plain, r.plainServer = l.NewControl()
	objects := l.Objects()
	for _, event := range []struct {
		name string
		do   func()
	}{
		{"killed and started again", func() {
			l.KillDaemon()
			time.Sleep(time.Second) // new connections do not need it
			l.StartDaemon()
		}},
		{"taken over by another", func() { l.StartDaemon() }},
	} {
		for _, f := range lab.Families() {
			r.undisturbed(l, event.name, f, event.do)
		}
	}
	if d := cmp.Diff(objects, l.Objects()); d != "" {
		l.Errorf("programs or maps were replaced (-before +after):\n%s", d)
	}
	port := 20000
	for _, f := range lab.Families() {
		r.undisturbed(l, "taken over by another with other programs", f, func() {
			// Other ports make other programs, like another build.
			l.StartDaemon("--snat-ports", fmt.Sprintf("%d-%d", port, port+4999))
			port += 5000
		})
	}
	after := l.Objects()
	if d := cmp.Diff(onlyMaps(objects), onlyMaps(after)); d != "" {
		l.Errorf("maps were replaced (-before +after):\n%s", d)
	}
	for pin := range objects {
		if _, ok := after[pin]; ok && !strings.HasPrefix(pin, "maps/") {
			l.Errorf("program %s is still there", pin)
		}
	}
}

// The programs of new devices are filters until no verb has run for a while; their conversion
// to links then does not disturb traffic.
func TestAttachedForGoodUnderLoad(t *testing.T) {
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	plain, plainServer := l.NewControl()
	outside := l.Echo(l.Outside, 7)
	budget := &retries{left: retryTime}
	for _, f := range lab.Families() {
		var idle func()
		next := func() route {
			idle = busy(l)
			l.Try("rm", "-f", "ben", "anna") // those of the previous try
			b := l.Sandbox("ben", "--network", web, "-p", "8080:80", "-p", "8080:80/udp")
			a := l.Sandbox("anna", "--network", web)
			return route{
				from: a, reached: l.Echo(a.Host, 80), inside: l.Echo(b.Host, 80), outside: outside,
				plain: plain, plainServer: plainServer,
			}
		}
		budget.undisturbed(l, "filters become links", f, next, func() (spoilt string) {
			if len(l.Filters()) == 0 {
				spoilt = "no filters were left: the daemon had to wait for verbs too long"
			}
			idle()
			l.Eventually(10*time.Second, func() error {
				if filters := l.Filters(); len(filters) > 0 {
					return fmt.Errorf("filters %q are not links yet", filters)
				}
				return nil
			})
			return spoilt
		})
	}
}

// busy keeps the daemon busy with verbs until idle is called. The command line would be too slow: the
// daemon is idle after half a second without a verb.
func busy(l *lab.Lab) (idle func()) {
	ctx := l.Context()
	c, err := client.New("unix://" + l.Socket())
	if err != nil {
		l.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				if _, err := c.CreateNetwork(ctx, api.NetworkCreate{Name: "busy"}); err != nil {
					l.Errorf("create network: %v", err)
				}
				if err := c.RemoveNetwork(ctx, "busy"); err != nil {
					l.Errorf("remove network: %v", err)
				}
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func onlyMaps(objects map[string]uint32) map[string]uint32 {
	objects = maps.Clone(objects)
	maps.DeleteFunc(objects, func(pin string, _ uint32) bool { return !strings.HasPrefix(pin, "maps/") })
	return objects
}

// route is a path of loads: in through the published port, out from a sandbox, from the host
// to that sandbox, and between two hosts without Fairlead.
type route struct {
	*retries
	from                                  *lab.Sandbox
	plain                                 *world.Host
	inside, outside, reached, plainServer *lab.Server
}

// undisturbed checks that an event does not disturb any load of a family.
func (r route) undisturbed(l *lab.Lab, event string, f lab.Family, do func()) {
	l.Helper()
	r.retries.undisturbed(l, event, f, func() route { return r }, func() string { do(); return "" })
}

// retries is the time that a test may still spend on repetitions.
type retries struct{ left time.Duration }

// undisturbed checks that an event does not disturb any load of a family, over another route
// at each try. It tries again if the machine itself lost or delayed packets, which the load
// without Fairlead shows, if do returns why the try is not valid, or until each load has been
// observed once: a sender that the machine prevented from sending does not observe anything.
func (b *retries) undisturbed(l *lab.Lab, event string, f lab.Family, next func() route, do func() (spoilt string)) {
	l.Helper()
	seen := map[string]bool{}
	for try := 1; ; try++ {
		began := time.Now()
		var spoilt string
		loads, machine := next().underLoad(l, event, f, func() { spoilt = do() })
		if try > 1 {
			b.left -= time.Since(began)
		}
		var unseen, disturbances []string
		if spoilt != "" {
			unseen = append(unseen, spoilt)
		}
		for name, report := range loads {
			for _, d := range report.Disturbances(longestTransit) {
				disturbances = append(disturbances, name+": "+d)
			}
			seen[name] = seen[name] || spoilt == "" && report.Pause <= longestTransit
			if !seen[name] {
				unseen = append(unseen, fmt.Sprintf("%s: nothing was sent for %v", name, report.Pause))
			}
		}
		if len(disturbances)+len(unseen) == 0 {
			return
		}
		message := fmt.Sprintf("%s, IPv%s, try %d: %q; without Fairlead: %q; not seen: %q", event, f, try, disturbances, machine, unseen)
		if len(disturbances) > 0 && len(machine) == 0 {
			l.Error(message)
			return
		}
		if b.left <= 0 {
			l.Error(message + "; no time is left to try again")
			return
		}
		l.Log(message)
	}
}

// underLoad returns the results of the loads, and what disturbed the load without Fairlead.
func (r route) underLoad(l *lab.Lab, event string, f lab.Family, do func()) (loads map[string]lab.Report, machine []string) {
	l.Helper()
	published := net.JoinHostPort(f.Of(lab.Host4, lab.Host6), "8080")
	away := net.JoinHostPort(f.Of(lab.Outside4, lab.Outside6), "7")
	const control = "no Fairlead"
	running := l.StartLoads(map[string]lab.Path{
		control:          {Client: r.plain, Server: r.plainServer, Address: lab.ControlAddress},
		"published port": {Client: l.Outside, Server: r.inside, Address: published},
		"masquerade":     {Client: r.from.Host, Server: r.outside, Address: away},
		"from the host":  {Client: l.Host, Server: r.reached, Address: net.JoinHostPort(r.from.IP(f), "80")},
	})
	do()
	time.Sleep(500 * time.Millisecond)
	loads = make(map[string]lab.Report)
	for name, load := range running {
		loads[name] = load.Stop()
		l.Logf("%s, IPv%s, %s: %v", event, f, name, loads[name])
	}
	machine = loads[control].Disturbances(longestTransit)
	delete(loads, control)
	return loads, machine
}
