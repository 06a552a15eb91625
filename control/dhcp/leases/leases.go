// SPDX-License-Identifier: Apache-2.0

// Package leases obtains, keeps and releases the leases of endpoints whose addresses a DHCP server allocates. What is
// known of a lease is in the desired state; here is when to ask for what, and what follows from the answer.
package leases

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/dhcp"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// patience bounds a step.
	patience = 10 * time.Second
	// atOnce bounds how many steps are taken at the same time.
	atOnce = 64
	// retry is the time until a renewal is tried again, at least; firstRetry and maxRetry those of an endpoint without
	// an address.
	retry      = 10 * time.Second
	firstRetry = 10 * time.Second
	maxRetry   = time.Minute
)

// Client talks to DHCP servers.
type Client interface {
	Ask(ctx context.Context, at dhcp.Endpoint, step dhcp.Step, last *model.Lease) (*model.Lease, error)
	Release(at dhcp.Endpoint, last *model.Lease) error
}

// Verbs changes the desired state.
type Verbs interface {
	// SetLease gives an endpoint an address, or none if it is the zero Prefix, and records the lease.
	SetLease(ctx context.Context, endpointID string, addr netip.Prefix, lease *model.Lease) error
}

// Config configures a Keeper. All fields but Now are required.
type Config struct {
	Client Client
	Verbs  Verbs
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Keeper keeps the leases of all endpoints.
type Keeper struct {
	cfg  Config
	wake chan struct{} // has a token if something may be due

	mu       sync.Mutex
	snapshot *desired.Snapshot
	entries  map[string]*entry // by endpoint ID
	results  map[string]uint64
	busy     int
}

// entry is an endpoint with a lease.
type entry struct {
	due       time.Time // zero: never
	busy      bool      // a step is being taken
	confirmed bool      // a server was asked for the lease since the daemon's start
	failed    int       // steps in a row
	first     chan struct{}
	firstErr  error // once first is closed
}

// New returns a Keeper. It keeps nothing before the first Update.
func New(cfg Config) *Keeper {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	k := &Keeper{cfg: cfg, wake: make(chan struct{}, 1), snapshot: &desired.Snapshot{}, entries: map[string]*entry{}, results: map[string]uint64{}}
	for _, r := range Results() {
		k.results[r] = 0
	}
	return k
}

// Results lists how steps end, for Counts.
func Results() []string { return []string{acknowledged, refused, unanswered, failed} }

const (
	acknowledged = "acknowledged"
	refused      = "refused"
	unanswered   = "unanswered"
	failed       = "failed"
)

// Counts returns how many leases are in which state, and how many steps ended how.
func (k *Keeper) Counts() (states map[string]int, results map[string]uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	states = make(map[string]int)
	for _, s := range model.LeaseStates() {
		states[s] = 0
	}
	for id := range k.entries {
		if ep := k.snapshot.Endpoint(id); ep != nil {
			states[ep.LeaseState(k.cfg.Now())]++
		}
	}
	return states, maps.Clone(k.results)
}

// Problems describes endpoints without an address, and leases that are not renewed, one line each.
func Problems(s *desired.Snapshot, now time.Time) (list []string) {
	for ep := range s.Endpoints() {
		n, state := s.Network(ep.NetworkID), ep.LeaseState(now)
		if ep.Lease == nil || n == nil || state == model.LeaseBound {
			continue
		}
		where := fmt.Sprintf("sandbox %s in network %s", s.SandboxName(ep.SandboxID), n.Name)
		const remedy = "(a DHCP server must answer on the link of %s and have a free address)"
		switch state {
		case model.LeaseNone, model.LeaseExpired:
			list = append(list, fmt.Sprintf("%s has no address "+remedy, where, n.Parent))
		default:
			if now.Sub(ep.Lease.Renew) <= patience {
				continue // it is being renewed
			}
			list = append(list, fmt.Sprintf("%s: server %v does not renew the lease of %v, which ends %s "+remedy, where, ep.Lease.Server, ep.IPv4.Addr(), ep.Lease.Expires.Format(time.DateTime), n.Parent))
		}
	}
	slices.Sort(list)
	return list
}

// Update makes the leases those of a snapshot.
func (k *Keeper) Update(s *desired.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range desired.DiffEndpoints(k.snapshot, s) {
		switch {
		case c.New == nil || c.New.Lease == nil:
			delete(k.entries, c.ID)
		case k.entries[c.ID] == nil:
			k.entries[c.ID] = &entry{due: k.cfg.Now(), first: make(chan struct{})}
			k.wakeUp()
		}
	}
	k.snapshot = s
}

func (k *Keeper) wakeUp() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Obtain waits for the first answer about an endpoint that was just created, and returns why it has no address.
func (k *Keeper) Obtain(ctx context.Context, endpointID string) error {
	k.mu.Lock()
	e := k.entries[endpointID]
	k.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.first:
		return e.firstErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run keeps leases until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		due, wait := k.take()
		for _, w := range due {
			wg.Go(func() { k.work(ctx, w) })
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// glance is how often the clock is looked at, which may be set or stand still while the host sleeps.
const glance = 5 * time.Second

// work is a step that is due.
type work struct {
	e    *entry
	ep   *model.Endpoint
	at   dhcp.Endpoint
	step dhcp.Step
	// network and sandbox are for messages.
	network *model.Network
	sandbox *model.Sandbox
}

// take returns what is due, and the time until something else is.
func (k *Keeper) take() (list []work, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cfg.Now()
	wait = glance
	for id, e := range k.entries {
		if e.busy || e.due.IsZero() || k.busy >= atOnce {
			continue
		}
		if rest := e.due.Sub(now); rest > 0 {
			wait = min(wait, rest)
			continue
		}
		w, ok := k.workOn(id, e, now)
		if !ok {
			continue
		}
		e.busy = true
		k.busy++
		list = append(list, w)
	}
	return list, wait
}

// workOn returns what is to be done for an endpoint.
func (k *Keeper) workOn(id string, e *entry, now time.Time) (work, bool) {
	ep := k.snapshot.Endpoint(id)
	w := work{e: e, ep: ep}
	if ep != nil {
		w.sandbox, w.network = k.snapshot.Sandbox(ep.SandboxID), k.snapshot.Network(ep.NetworkID)
	}
	if w.sandbox == nil || w.network == nil {
		return w, false
	}
	w.at = place(w.sandbox, w.network, ep)
	switch state := ep.LeaseState(now); {
	case state == model.LeaseNone, state == model.LeaseExpired:
		w.step = discover(ep)
	case !e.confirmed:
		w.step = dhcp.Confirm
	case state == model.LeaseRebinding:
		w.step = dhcp.Rebind
	case state == model.LeaseRenewing:
		w.step = dhcp.Renew
	default:
		e.due = ep.Lease.Renew
		return w, false
	}
	return w, true
}

// discover returns the step by which an endpoint gets an address.
func discover(ep *model.Endpoint) dhcp.Step {
	if ep.FixedIPv4 {
		return dhcp.Require
	}
	return dhcp.Discover
}

// place returns where an endpoint is, and its name for the server.
func place(sb *model.Sandbox, n *model.Network, ep *model.Endpoint) dhcp.Endpoint {
	name := sb.Hostname
	if name == "" {
		name = sb.Name
	}
	return dhcp.Endpoint{ID: ep.ID, NetNS: sb.NetNS, Kind: n.Driver, IfName: ep.IfName, Hostname: name}
}

// work takes a step and what follows from it.
func (k *Keeper) work(ctx context.Context, w work) {
	lease, err := k.ask(ctx, w, w.step)
	had := w.ep.IPv4.IsValid()
	if errors.Is(err, dhcp.ErrRefused) && had {
		k.cfg.Log.Warn("the DHCP server refuses the address of an endpoint, which gets another", "sandbox", w.sandbox.Name, "network", w.network.Name, "address", w.ep.IPv4.Addr())
		again := w
		if !w.ep.FixedIPv4 {
			ep := *w.ep
			ep.Lease = new(model.Lease)
			again.ep = &ep
		}
		lease, err = k.ask(ctx, again, discover(w.ep))
		had = had && err == nil
	}
	if ctx.Err() != nil {
		return // the next daemon continues
	}
	switch now := k.cfg.Now(); {
	case err == nil:
		err = k.accept(ctx, w, lease)
	case w.ep.IPv4.IsValid() && (!had || w.ep.LeaseState(now) == model.LeaseExpired):
		k.cfg.Log.Warn("an endpoint lost its address, because no DHCP server gives it one; it gets one as soon as a server does", "sandbox", w.sandbox.Name, "network", w.network.Name, "address", w.ep.IPv4.Addr(), "err", err)
		if err := k.cfg.Verbs.SetLease(ctx, w.ep.ID, netip.Prefix{}, w.ep.Lease); err != nil && !errors.Is(err, model.ErrNotFound) {
			k.cfg.Log.Error("cannot take an address away that an endpoint must not use any more", "address", w.ep.IPv4.Addr(), "err", err)
		}
	}
	k.finish(w, err)
}

// ask takes one step in bounded time.
func (k *Keeper) ask(ctx context.Context, w work, step dhcp.Step) (*model.Lease, error) {
	most := patience
	if l := w.ep.Lease; step == dhcp.Renew {
		most = max(time.Second, min(most, l.Rebind.Sub(k.cfg.Now())))
	}
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	lease, err := k.cfg.Client.Ask(limited, w.at, step, w.ep.Lease)
	result := failed
	switch other := (*dhcp.OtherError)(nil); {
	case err == nil:
		result = acknowledged
	case errors.Is(err, dhcp.ErrSilent):
		result = unanswered
	case errors.Is(err, dhcp.ErrRefused), errors.As(err, &other):
		result = refused
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.results[result]++
	return lease, err
}

// accept records a lease.
func (k *Keeper) accept(ctx context.Context, w work, lease *model.Lease) error {
	if err := k.cfg.Verbs.SetLease(ctx, w.ep.ID, lease.Address, lease); err != nil {
		_ = k.cfg.Client.Release(w.at, lease) // the device may be gone
		return err
	}
	if lease.Address != w.ep.IPv4 || w.e.failed > 0 {
		k.cfg.Log.Info("leased address", "sandbox", w.sandbox.Name, "network", w.network.Name, "address", lease.Address, "server", lease.Server, "until", lease.Expires)
	}
	return nil
}

// finish schedules the next step.
func (k *Keeper) finish(w work, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, now := w.e, k.cfg.Now()
	k.busy--
	e.busy, e.confirmed = false, true
	defer k.wakeUp()
	select {
	case <-e.first:
	default:
		if err != nil && !w.ep.IPv4.IsValid() {
			e.firstErr = explain(w, err)
		}
		close(e.first)
	}
	ep := k.snapshot.Endpoint(w.ep.ID)
	if ep == nil || ep.Lease == nil {
		return
	}
	if err == nil {
		e.failed, e.due = 0, ep.Lease.Renew
		return
	}
	if w.ep.IPv4.IsValid() && !ep.IPv4.IsValid() {
		e.failed = 0 // from now on it is another matter
	}
	if e.failed++; e.failed == 1 {
		k.cfg.Log.Warn("cannot get or renew a lease; this is tried again", "sandbox", w.sandbox.Name, "network", w.network.Name, "step", w.step, "err", err)
	}
	e.due = nextTry(ep, now, w.step, e.failed)
}

// nextTry returns when to try again after a step failed: while there is time, after half of what is left; at once, if
// another step is due meanwhile.
func nextTry(ep *model.Endpoint, now time.Time, step dhcp.Step, failed int) time.Time {
	l := ep.Lease
	half := func(until time.Time) time.Time {
		next := now.Add(max(until.Sub(now)/2, retry))
		if next.After(until) {
			return until
		}
		return next
	}
	switch state := ep.LeaseState(now); {
	case state == model.LeaseBound:
		return l.Renew
	case state == model.LeaseRenewing && step == dhcp.Renew:
		return half(l.Rebind)
	case state == model.LeaseRebinding && step == dhcp.Rebind:
		return half(l.Expires)
	case state != model.LeaseNone && step != dhcp.Discover && step != dhcp.Require:
		return now
	}
	wait := min(firstRetry<<min(failed-1, 4), maxRetry)
	return now.Add(wait + rand.N(wait/4)) // so that many endpoints do not ask at once
}

// explain returns why an endpoint has no address, for the user.
func explain(w work, err error) error {
	other := (*dhcp.OtherError)(nil)
	switch {
	case errors.Is(err, dhcp.ErrSilent):
		return model.Refuse(model.ErrExhausted, "no DHCP server gave sandbox %q an address in network %s within %v (a server must answer on the link of %s and have a free address)",
			w.sandbox.Name, w.network.Name, patience, w.network.Parent)
	case errors.As(err, &other):
		return model.Refuse(model.ErrConflict, "%v is not available in network %s: %v (choose a free address of that server, or leave out --ip)", w.ep.Lease.Address.Addr(), w.network.Name, err)
	case errors.Is(err, dhcp.ErrRefused):
		return model.Refuse(model.ErrConflict, "%v on the link of %s, in network %s (try again)", err, w.network.Parent, w.network.Name)
	}
	return err
}
