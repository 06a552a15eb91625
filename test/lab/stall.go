// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
)

// stall is a time in which some traffic of a load waited.
type stall struct{ from, to time.Time }

// shortestStall is one that is worth remembering.
const shortestStall = 5 * time.Millisecond

func (d *Load) stalled(kind string, from time.Time, took time.Duration) {
	if took < shortestStall {
		return
	}
	d.note(func(r *Report) {
		if r.stalls == nil {
			r.stalls = make(map[string][]stall)
		}
		r.stalls[kind] = append(r.stalls[kind], stall{from, from.Add(took)})
	})
}

// machineStall is how long traffic of control must wait for it to be the machine
// that stands still. Less is how it always is under such a load.
const machineStall = 20 * time.Millisecond

// LongestBeyond is the longest time traffic of one kind stood still while the
// machine did not: times in which any traffic of control waited for long do not
// count. This is no real-time system, the load itself fills its processors, and
// the race detector makes it heavier; that is not Fairlead's, and what happens
// to this load alone is. Stalled tells how much of the time was not judged.
func (r Report) LongestBeyond(control Report) (longest time.Duration, kind string) {
	machine := control.machineStalls()
	for k, stalls := range r.stalls {
		for _, s := range stalls {
			own := s.to.Sub(s.from)
			for _, m := range machine {
				own -= overlap(s, m)
			}
			if own > longest {
				longest, kind = own, k
			}
		}
	}
	return longest, kind
}

// Stalled is the time in which, by this control, the machine stood still.
func (r Report) Stalled() (sum time.Duration) {
	for _, s := range r.machineStalls() {
		sum += s.to.Sub(s.from)
	}
	return sum
}

// machineStalls joins the long stalls that overlap.
func (r Report) machineStalls() (joined []stall) {
	var long []stall
	for _, stalls := range r.stalls {
		for _, s := range stalls {
			if s.to.Sub(s.from) >= machineStall {
				long = append(long, s)
			}
		}
	}
	slices.SortFunc(long, func(a, b stall) int { return a.from.Compare(b.from) })
	for _, s := range long {
		if n := len(joined); n > 0 && !s.from.After(joined[n-1].to) {
			if s.to.After(joined[n-1].to) {
				joined[n-1].to = s.to
			}
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

func overlap(a, b stall) time.Duration {
	from, to := a.from, a.to
	if b.from.After(from) {
		from = b.from
	}
	if b.to.Before(to) {
		to = b.to
	}
	return max(0, to.Sub(from))
}

// ControlServer is the address of an echo server that a client made by
// NewControl reaches over a plain veth pair.
const ControlServer = "10.255.0.1:7"

// NewControl makes two hosts that Fairlead has nothing to do with, joined by a
// plain veth pair, and returns the client. A load between them says what this
// machine does to any traffic.
func (l *Lab) NewControl() *world.Host {
	l.Helper()
	server, client := l.NewHost("control server"), l.NewHost("control client")
	l.must(world.Cable(
		world.End{Host: server, Device: "eth0", Addresses: []string{"10.255.0.1/24"}},
		world.End{Host: client, Device: "eth0", Addresses: []string{"10.255.0.2/24"}},
	))
	l.Echo(server, 7)
	return client
}
