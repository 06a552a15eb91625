// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// longestGap is how long traffic may stand still while a daemon is exchanged.
// Only time in which the machine did not stand still counts, by a control load
// over a plain veth pair: see Report.LongestBeyond.
const longestGap = 50 * time.Millisecond

// The modes run one after the other, and no other lab beside them.
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
	l.Echo(b.Host, 80)
	l.Echo(l.Outside, 7)
	control := l.NewControl()
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
			underLoad(l, event.name, f, control, a, event.do)
		}
	}
	if d := cmp.Diff(objects, l.Objects()); d != "" {
		l.Errorf("programs or maps were replaced (-before +after):\n%s", d)
	}
	// Other ports make other programs, as another build would.
	for i, f := range lab.Families() {
		ports := []string{"20000-29999", "30000-39999"}[i]
		underLoad(l, "taken over by another with other programs", f, control, a, func() { l.StartDaemon("--snat-ports", ports) })
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

func onlyMaps(objects map[string]uint32) map[string]uint32 {
	objects = maps.Clone(objects)
	maps.DeleteFunc(objects, func(pin string, _ uint32) bool { return !strings.HasPrefix(pin, "maps/") })
	return objects
}

// underLoad wants an event to disturb no traffic of a family: in through the
// published port, and out from a.
func underLoad(l *lab.Lab, event string, f lab.Family, control *world.Host, a *lab.Sandbox, do func()) {
	l.Helper()
	plain := l.StartLoad("control", control, lab.ControlServer)
	loads := map[string]*lab.Load{
		"published port": l.StartLoad("published port", l.Outside, net.JoinHostPort(f.Of(lab.Host4, lab.Host6), "8080")),
		"masquerade":     l.StartLoad("masquerade", a.Host, net.JoinHostPort(f.Of(lab.Outside4, lab.Outside6), "7")),
	}
	do()
	time.Sleep(500 * time.Millisecond)
	reports := make(map[string]lab.Report)
	for name, load := range loads {
		reports[name] = load.Stop()
	}
	machine := plain.Stop()
	l.Logf("%s, IPv%s, control: %v; the machine stood still for %v", event, f, machine, machine.Stalled().Round(time.Millisecond))
	for name, r := range reports {
		gap, kind := r.LongestBeyond(machine)
		l.Logf("%s, IPv%s, %s: %v; stood still alone for %v (%s)", event, f, name, r, gap, kind)
		if len(r.Errors) > 0 {
			l.Errorf("%s, IPv%s, %s: %q", event, f, name, r.Errors)
		}
		if gap > longestGap {
			l.Errorf("%s, IPv%s, %s: %s traffic alone stood still for %v", event, f, name, kind, gap)
		}
	}
}
