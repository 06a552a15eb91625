// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/check"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/rtnl"
	dp "github.com/fairlead-net/fairlead/maps"
)

// hold makes the attachment of a program wait. awaited returns the device once one waits.
func (w *world) hold() (awaited func() int, release func()) {
	reached, released := make(chan int, 1), make(chan struct{})
	w.beforeAttach.Store(func(ifindex int) {
		w.beforeAttach.Store(func(int) {})
		reached <- ifindex
		<-released
	})
	awaited = func() int {
		w.tb.Helper()
		select {
		case ifindex := <-reached:
			return ifindex
		case <-time.After(20 * time.Second):
			w.tb.Fatal("nothing attaches a program")
			return 0
		}
	}
	return awaited, func() { close(released) }
}

// within fails the test if do takes long.
func (w *world) within(what string, do func() error) {
	w.tb.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		if err != nil {
			w.tb.Errorf("%s: %v", what, err)
		}
	case <-time.After(20 * time.Second):
		w.tb.Errorf("%s waits for the device of another sandbox", what)
	}
}

// attaching is what attaches a program, after lose.
type attaching struct {
	lose   func(w *world, n *model.Network, there *model.Endpoint)
	attach func(w *world, p *plan, n *model.Network) error
}

// lost detaches the program of a device of that name or alias.
func (w *world) lost(find func(rtnl.Link) bool) {
	w.tb.Helper()
	links, err := w.nl.Links()
	if err != nil {
		w.tb.Fatal(err)
	}
	before := len(w.attached)
	for _, l := range links {
		if find(l) {
			maps.DeleteFunc(w.attached, func(at device.Place, _ bool) bool { return at.IfIndex == int(l.Index) })
		}
	}
	if len(w.attached) == before {
		w.tb.Fatal("no program is attached there")
	}
}

// addUplink adds a device that is an uplink.
func (w *world) addUplink() {
	ip(w.tb, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	ip(w.tb, "link", "set", "up0", "up")
	ip(w.tb, "link", "set", "up1", "up")
	ip(w.tb, "addr", "add", "192.0.2.10/24", "dev", "up0")
}

var attachings = map[string]attaching{
	"verb": {attach: func(w *world, p *plan, n *model.Network) error {
		p.endpoint(p.sandbox("a"), n)
		return w.r.Accept(w.tb.Context(), p.snapshot())()
	}},
	"promotion": {attach: func(w *world, _ *plan, _ *model.Network) error {
		w.r.promoter.LastVerb = time.Time{}
		w.r.promoter.One()
		return nil
	}},
	"check of a sandbox": {
		lose: func(w *world, _ *model.Network, there *model.Endpoint) {
			w.lost(func(l rtnl.Link) bool { return l.Alias == rtnl.EndpointAlias(there.ID) })
		},
		attach: checkHost,
	},
	"check of a sandbox without a device": {
		lose: func(w *world, _ *model.Network, there *model.Endpoint) {
			ip(w.tb, "link", "del", w.link(rtnl.EndpointAlias(there.ID)).Name)
		},
		attach: checkHost,
	},
	"check of a network": {
		lose: func(w *world, n *model.Network, _ *model.Endpoint) {
			w.lost(func(l rtnl.Link) bool { return l.Alias == rtnl.HostPortAlias(n.ID) })
		},
		attach: checkHost,
	},
	"check of a network without a device": {
		lose: func(w *world, n *model.Network, _ *model.Endpoint) {
			ip(w.tb, "link", "del", w.link(rtnl.HostPortAlias(n.ID)).Name)
		},
		attach: checkHost,
	},
	"check of an uplink": {
		lose: func(w *world, _ *model.Network, _ *model.Endpoint) {
			w.addUplink()
			w.resync()
			w.lost(func(l rtnl.Link) bool { return l.Name == "up0" })
		},
		attach: checkHost,
	},
	"new uplink": {
		lose:   func(w *world, _ *model.Network, _ *model.Endpoint) { w.addUplink() },
		attach: func(w *world, _ *plan, _ *model.Network) error { return w.r.host.AttachUplinks(w.tb.Context()) },
	},
	"check of the sockets": {
		lose:   func(w *world, _ *model.Network, _ *model.Endpoint) { w.cgroup = false },
		attach: checkHost,
	},
}

func checkHost(w *world, _ *plan, _ *model.Network) error {
	_, err := w.r.host.Check(w.tb.Context(), check.Regular)
	return err
}

// While a program is being attached, by the verb of a sandbox, to replace a filter, or because a check found it
// missing, verbs of other sandboxes are applied, the host is checked, and queries are answered. What is attached
// meanwhile is recorded once.
func TestAttachingDelaysNoOther(t *testing.T) {
	for name, of := range attachings {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.plan()
			n, other := p.network("one", 1), p.network("two", 2)
			w.apply(p)
			there := p.endpoint(p.sandbox("there"), n)
			w.apply(p)
			if of.lose != nil {
				w.promoteAll()
				w.resync()
				of.lose(w, n, there)
			}
			awaited, release := w.hold()
			with := *p
			with.s = p.s.Clone()
			attached := make(chan error, 1)
			go func() { attached <- of.attach(w, &with, n) }()
			awaited()
			if name == "verb" {
				p.s = with.s.Clone() // accepted already
				p.next = with.next
			}
			if of.lose == nil {
				other = n
			}
			p.endpoint(p.sandbox("b"), other)
			w.within("a verb", func() error { return w.applySnapshot(p.snapshot()) })
			w.within("a check of the host", func() error { return checkHost(w, nil, nil) })
			w.within("a query", func() error {
				_, err := w.r.InnerEnd(there)
				return err
			})
			release()
			if err := <-attached; err != nil {
				t.Error(err)
			}
			if of.lose != nil {
				w.resync()
			}
			w.promoteAll()
			w.wantNoRepairs("afterwards")
		})
	}
}

// While the flows of an address that the host lost are searched, which takes long where there are many, verbs are applied.
func TestLostAddressDelaysNoOther(t *testing.T) {
	for name, find := range map[string]func(w *world, p *plan, n *model.Network) error{
		"check": checkHost,
		"event": func(w *world, _ *plan, _ *model.Network) error { return w.r.host.AttachUplinks(w.tb.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.plan()
			n := p.network("one", 1)
			w.apply(p)
			w.addUplink()
			w.resync()
			w.flows = []dp.Flow{{NATSrc: true, Reply: dp.Tuple{Dst: netip.MustParseAddrPort("192.0.2.10:1024")}}}
			ip(t, "addr", "del", "192.0.2.10/24", "dev", "up0")
			w.resync()
			w.r.host.Uplinks.Linger = 0 // its flows are kept for a while, in case that it comes back
			searched, release := make(chan bool), make(chan bool)
			w.beforeFlows.Store(func() {
				w.beforeFlows.Store(func() {})
				close(searched)
				<-release
			})
			found := make(chan error, 1)
			go func() { found <- find(w, p, n) }()
			select {
			case <-searched:
			case err := <-found:
				t.Fatalf("no flows were searched (%v)", err)
			}
			p.endpoint(p.sandbox("b"), n)
			w.within("a verb", func() error { return w.applySnapshot(p.snapshot()) })
			close(release)
			if err := <-found; err != nil {
				t.Error(err)
			}
			if len(w.flows) != 0 {
				t.Errorf("flows of the lost address: %v", w.flows)
			}
		})
	}
}

// Between a verb that failed and the snapshot that reverts it, no check takes what the verb left for damage.
func TestFailedVerbIsNoDamage(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("one", 1)
	stays := p.endpoint(p.sandbox("stays"), n)
	w.apply(p)
	before := p.s.Clone()
	for fault := 1; ; fault++ {
		p.s = before.Clone()
		w.apply(p)
		w.resync()
		p.endpoint(p.sandbox("fails"), p.network("two", 2))
		delete(p.s.Endpoints, stays.ID)
		w.mu.Lock()
		w.fault = fault
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		err := w.r.Accept(ctx, p.snapshot())()
		cancel()
		w.mu.Lock()
		left := w.fault
		w.fault = 0
		w.mu.Unlock()
		if left > 0 { // the verb needs fewer calls
			if fault < 5 {
				t.Errorf("a verb needs %d calls only", fault)
			}
			break
		}
		if !errors.Is(err, errFault) {
			t.Errorf("fault %d: %v", fault, err)
		}
		repairs, err := w.repairAll(t.Context())
		if repairs.Total() > 0 || err != nil {
			t.Errorf("fault %d: repaired %v before the revert, %v", fault, repairs, err)
		}
		p.s = before.Clone()
		if err := w.r.Accept(context.WithoutCancel(t.Context()), p.snapshot())(); err != nil {
			t.Error(err)
		}
		w.wantNoRepairs("after the revert")
		if !w.r.state.Turns.Idle() {
			t.Error("turns do not end")
		}
	}
}

// A check creates a pair again of which a program moved the other end elsewhere, in a second pass, also while others check
// the host all the time.
func TestCheckCreatesAgainBesideOthers(t *testing.T) {
	w := newWorld(t)
	p := w.plan()
	n := p.network("one", 1)
	b := p.sandbox("box")
	p.endpoint(b, n)
	w.apply(p)
	elsewhere := filepath.Join(w.dir, "elsewhere")
	w.must(rtnl.CreateNetNS(elsewhere))
	defer rtnl.RemoveNetNS(elsewhere)
	var checks sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	checks.Go(func() {
		for ctx.Err() == nil {
			if _, err := w.r.host.Check(ctx, check.Quick); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		w.inNetNS(b, func(*rtnl.Handle) error {
			ip(t, "link", "set", "eth0", "netns", elsewhere)
			return nil
		})
		if err := w.r.Check(t.Context(), b.ID); err != nil {
			t.Error(err)
		}
	}
	cancel()
	checks.Wait()
	w.resync()
}
