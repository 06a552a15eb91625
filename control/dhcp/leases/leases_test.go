// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/dhcp"
	"github.com/fairlead-net/fairlead/control/model"
)

// world is an endpoint, a clock and a server, which gives answer or errs.
type world struct {
	*testing.T
	k        *Keeper
	state    desiredtest.Plain
	now      time.Time
	address  string           // that the server gives
	errs     map[string]error // by step
	asked    []string
	released []string
	storeErr error
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, state: desiredtest.New(), now: time.Unix(1e9, 0).UTC(), address: "192.0.2.9/24", errs: map[string]error{}}
	w.k = New(Config{Client: w, Verbs: w, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }})
	w.state.Networks["n"] = &model.Network{ID: "n", Name: "lan", Driver: model.DriverMacvlan, Parent: "eth7", IPAM: model.IPAMDHCP}
	w.state.Sandboxes["s"] = &model.Sandbox{ID: "s", Name: "anna", NetNS: "/run/s"}
	w.put(func(ep *model.Endpoint) {
		*ep = model.Endpoint{ID: "e", NetworkID: "n", SandboxID: "s", IfName: "eth0", Lease: new(model.Lease)}
	})
	return w
}

// put changes the endpoint.
func (w *world) put(change func(ep *model.Endpoint)) {
	now := model.Endpoint{}
	if was := w.state.Endpoints["e"]; was != nil {
		now = *was
	}
	change(&now)
	w.state.Endpoints["e"] = &now
	w.k.Update(w.state.Snapshot())
}

func (w *world) ep() *model.Endpoint { return w.state.Endpoints["e"] }

func (w *world) SetLease(_ context.Context, id string, addr netip.Prefix, lease *model.Lease) error {
	if w.storeErr == nil {
		w.put(func(ep *model.Endpoint) { ep.IPv4, ep.Lease = addr, lease })
	}
	return w.storeErr
}

func (w *world) Ask(ctx context.Context, at dhcp.Endpoint, step dhcp.Step, last *model.Lease) (*model.Lease, error) {
	if _, limited := ctx.Deadline(); !limited || at != (dhcp.Endpoint{ID: "e", NetNS: "/run/s", Kind: "macvlan", IfName: "eth0", Hostname: "anna"}) {
		w.Errorf("asked for %+v", at)
	}
	text := step.String()
	if last.Address.IsValid() {
		text += " " + last.Address.Addr().String()
	}
	w.asked = append(w.asked, text)
	if err := w.errs[step.String()]; err != nil {
		return nil, err
	}
	return &model.Lease{
		Address: netip.MustParsePrefix(w.address), Server: netip.MustParseAddr("192.0.2.254"), Obtained: w.now,
		Renew: w.now.Add(30 * time.Minute), Rebind: w.now.Add(50 * time.Minute), Expires: w.now.Add(time.Hour),
	}, nil
}

func (w *world) Release(at dhcp.Endpoint, last *model.Lease) error {
	w.released = append(w.released, at.ID+" "+last.Address.Addr().String())
	return nil
}

// pass lets time pass, step by step of what is due, and expects what is asked of the server, and the address at the end.
func (w *world) pass(d time.Duration, want string, address string) {
	w.Helper()
	w.asked = nil
	for end := w.now.Add(d); ; {
		due, wait := w.k.take()
		for _, job := range due {
			w.k.work(w.Context(), job)
		}
		if len(due) > 0 {
			continue
		}
		if wait <= 0 || wait > glance {
			w.Fatalf("nothing is due for %v", wait)
		}
		if !w.now.Add(wait).Before(end) {
			w.now = end
			break
		}
		w.now = w.now.Add(wait)
	}
	if got := strings.Join(w.asked, ", "); got != want {
		w.Errorf("asked %q, want %q", got, want)
	}
	if got := model.AddrText(w.ep().IPv4.Addr()); got != address {
		w.Errorf("the address is %q, want %q", got, address)
	}
}

// A lease is obtained, and renewed each time half of it has passed.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	w.pass(time.Minute, "discover", "192.0.2.9")
	if err := w.k.Obtain(t.Context(), "e"); err != nil {
		t.Error(err)
	}
	w.pass(25*time.Minute, "", "192.0.2.9")
	w.pass(60*time.Minute, "renew 192.0.2.9, renew 192.0.2.9", "192.0.2.9")
	if states, results := w.k.Counts(); states[model.LeaseBound] != 1 || results[acknowledged] != 3 {
		t.Errorf("counts are %v, %v", states, results)
	}
	w.address = "192.0.2.10/24"
	w.pass(30*time.Minute, "renew 192.0.2.9", "192.0.2.10")
}

// Without a server a lease is asked for more and more often and of any server, to its end. Then the endpoint has no address
// until a server answers again.
func TestSilence(t *testing.T) {
	w := newWorld(t)
	w.pass(time.Minute, "discover", "192.0.2.9")
	for _, step := range []string{"renew", "rebind", "discover"} {
		w.errs[step] = dhcp.ErrSilent
	}
	times := func(n int, what string) string {
		return strings.TrimSuffix(strings.Repeat(what+" 192.0.2.9, ", n), ", ")
	}
	w.pass(48*time.Minute, times(5, "renew"), "192.0.2.9")
	if p := Problems(w.state.Snapshot(), w.now); len(p) != 1 || !strings.Contains(p[0], "sandbox anna in network lan: server 192.0.2.254 does not renew the lease of 192.0.2.9") {
		t.Errorf("problems are %q", p)
	}
	w.pass(10*time.Minute+30*time.Second, times(3, "renew")+", "+times(5, "rebind"), "192.0.2.9")
	w.pass(31*time.Second, times(2, "rebind")+", "+times(1, "discover"), "")
	if p := Problems(w.state.Snapshot(), w.now); len(p) != 1 || !strings.Contains(p[0], "sandbox anna in network lan has no address") {
		t.Errorf("problems are %q", p)
	}
	delete(w.errs, "discover")
	w.pass(time.Minute, "discover 192.0.2.9", "192.0.2.9")
}

// A server that refuses a lease is asked for another at once. The user's choice is asked for again.
func TestRefusal(t *testing.T) {
	for _, tc := range []struct {
		fixed       bool
		discover    error
		asked, then string
	}{
		{false, nil, "renew 192.0.2.9, discover", "192.0.2.10"},
		{false, dhcp.ErrSilent, "renew 192.0.2.9, discover", ""},
		{true, &dhcp.OtherError{}, "renew 192.0.2.9, require 192.0.2.9", ""},
	} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			w := newWorld(t)
			w.pass(time.Minute, "discover", "192.0.2.9")
			w.put(func(ep *model.Endpoint) { ep.FixedIPv4 = tc.fixed })
			w.errs["renew"], w.errs["discover"], w.errs["require"] = dhcp.ErrRefused, tc.discover, tc.discover
			w.address = "192.0.2.10/24"
			w.pass(29*time.Minute+5*time.Second, tc.asked, tc.then)
		})
	}
}

// After a start every lease is confirmed, also one that ended meanwhile, which asks for its former address. If nobody answers, it goes on.
func TestStart(t *testing.T) {
	for name, tc := range map[string]struct {
		passed  time.Duration
		err     error
		asked   string
		address string
	}{
		"confirmed": {time.Minute, nil, "confirm 192.0.2.9", "192.0.2.9"},
		"silence":   {time.Minute, dhcp.ErrSilent, "confirm 192.0.2.9", "192.0.2.9"},
		"late":      {40 * time.Minute, nil, "confirm 192.0.2.9", "192.0.2.9"},
		"ended":     {2 * time.Hour, nil, "discover 192.0.2.9", "192.0.2.9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pass(time.Minute, "discover", "192.0.2.9")
			was := w.k
			w.k = New(was.cfg)
			w.now = w.now.Add(tc.passed)
			w.errs["confirm"] = tc.err
			w.k.Update(w.state.Snapshot())
			w.pass(2*time.Second, tc.asked, tc.address)
		})
	}
}

// Obtain returns one line that says why there is no address, and the remedy. A lease that cannot be stored is released.
func TestObtain(t *testing.T) {
	for _, tc := range []struct {
		step  string
		err   error
		store error
		kind  error
		want  string
	}{
		{"discover", dhcp.ErrSilent, nil, model.ErrExhausted, `no DHCP server gave sandbox "anna" an address in network lan within 10s (a server must answer on the link of eth7 and have a free address)`},
		{"require", &dhcp.OtherError{Server: netip.MustParseAddr("192.0.2.254"), Offered: netip.MustParseAddr("192.0.2.7")}, nil, model.ErrConflict,
			"192.0.2.5 is not available in network lan: DHCP server 192.0.2.254 offers 192.0.2.7 instead of it (choose a free address of that server, or leave out --ip)"},
		{"discover", dhcp.ErrRefused, nil, model.ErrConflict, "the DHCP server refused the address on the link of eth7, in network lan (try again)"},
		{"discover", nil, model.ErrConflict, model.ErrConflict, "conflict"},
	} {
		w := newWorld(t)
		if tc.step == "require" {
			w.put(func(ep *model.Endpoint) {
				ep.FixedIPv4, ep.Lease = true, &model.Lease{Address: netip.MustParsePrefix("192.0.2.5/32")}
			})
		}
		w.errs[tc.step], w.storeErr = tc.err, tc.store
		due, _ := w.k.take()
		w.k.work(t.Context(), due[0])
		err := w.k.Obtain(t.Context(), "e")
		if !errors.Is(err, tc.kind) || err.Error() != tc.want {
			t.Errorf("%v, want %q", err, tc.want)
		}
		if released := strings.Join(w.released, ", "); (released == "e 192.0.2.9") != (tc.store != nil) {
			t.Errorf("after %v: released %q", err, released)
		}
	}
}

// realizer removes nothing if err is set.
type realizer struct{ err error }

func (r *realizer) Accept(context.Context, *desired.Snapshot) func() error {
	return func() error { return r.err }
}

// A lease is released before its endpoint is removed, and confirmed again if the removal fails.
func TestRelease(t *testing.T) {
	w := newWorld(t)
	w.pass(time.Minute, "discover", "192.0.2.9")
	next := new(realizer)
	r := w.k.Before(next)
	full := w.state.Snapshot()
	empty := desiredtest.New().Snapshot()
	if err := r.Accept(t.Context(), full)(); err != nil || len(w.released) != 0 {
		t.Errorf("%v, released %q", err, w.released)
	}
	next.err = errors.New("no")
	if err := r.Accept(t.Context(), empty)(); !errors.Is(err, next.err) || strings.Join(w.released, ",") != "e 192.0.2.9" {
		t.Errorf("%v, released %q", err, w.released)
	}
	w.pass(time.Second, "confirm 192.0.2.9", "192.0.2.9")
	next.err, w.released = nil, nil
	_ = r.Accept(t.Context(), full)()
	w.put(func(ep *model.Endpoint) { ep.IPv4 = netip.Prefix{} })
	_ = r.Accept(t.Context(), w.state.Snapshot())()
	if err := r.Accept(t.Context(), empty)(); err != nil || len(w.released) != 0 {
		t.Errorf("%v, released %q of an endpoint without an address", err, w.released)
	}
}

// Run works on what is due until its context ends, and Obtain waits for it.
func TestRun(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.k.Run(ctx) }()
	if err := w.k.Obtain(ctx, "e"); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if w.ep().IPv4.String() != w.address {
		t.Errorf("the address is %v", w.ep().IPv4)
	}
	if err := w.k.Obtain(t.Context(), "none"); err != nil {
		t.Error(err)
	}
}
