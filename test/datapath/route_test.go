// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/fairlead-net/fairlead/bpf"
)

// Flows that run simultaneously cache their routes in different slots: flows of one sandbox
// to one server, whose ports are every second one, as connect() assigns them.
func TestRouteSlots(t *testing.T) {
	const flows = 64
	w := newWorld(t, config{vars: featureVars()})
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			w.forget(t)
			before := w.routes(t, f)
			s := &scenario{TB: t, world: w}
			l := protocols()[0]
			for i := range uint16(flows) {
				s.from("a", s.via(f, "a", l.on(32768+2*i), at(f.remote, l.dport))).do()
			}
			// By chance alone two of 64 collide.
			if got := w.routes(t, f) - before; got < flows*3/4 {
				t.Errorf("%d flows remember %d routes", flows, got)
			}
		})
	}
}

// routes counts the cached routes of a family on all processors.
func (w *world) routes(tb testing.TB, f family) (n int) {
	tb.Helper()
	var slot uint32
	var perCPU []bpf.TCRouteSlot
	it := w.tables["fl_route"].Iterate()
	for it.Next(&slot, &perCPU) {
		for _, s := range perCPU {
			if s.Key.Iif != 0 && s.Key.T.Daddr == ipKey(f.remote) {
				n++
			}
		}
	}
	must(tb, it.Err())
	return n
}
