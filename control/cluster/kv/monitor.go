// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// monitor pings the store, and is alone in deciding whether it answers: calls that fail only make
// it check. So a call is never refused for the failure of another.
type monitor struct {
	ping func(context.Context) error
	cfg  Config
	poke chan struct{}

	mu     sync.Mutex
	known  bool // pinged at all
	health Health
	change chan struct{}      // closed when health changes
	up     context.Context    // ends when the store stops answering
	fell   context.CancelFunc // ends it
}

func newMonitor(ping func(context.Context) error, cfg Config) *monitor {
	m := &monitor{ping: ping, cfg: cfg, poke: make(chan struct{}, 1), change: make(chan struct{})}
	m.health = Health{Store: cfg.Name, Since: time.Now()}
	m.up, m.fell = context.WithCancel(context.Background())
	return m
}

// run pings until ctx ends.
func (m *monitor) run(ctx context.Context) {
	for failed := 0; ; {
		limited, cancel := context.WithTimeout(ctx, m.cfg.PingTimeout)
		err := m.ping(limited)
		if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", m.cfg.PingTimeout)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = m.cfg.explain(err)
		}
		m.set(err)
		wait := m.cfg.PingEvery
		if err != nil {
			wait = min(100*time.Millisecond<<min(failed, 10), m.cfg.MaxBackoff)
			failed++
		} else {
			failed = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-m.poked(err == nil):
		case <-time.After(spread(wait)):
		}
	}
}

// poked returns the channel of requests to check, if these are to be followed: while the store
// does not answer, the interval between attempts is kept.
func (m *monitor) poked(follow bool) <-chan struct{} {
	if !follow {
		return nil
	}
	return m.poke
}

// check makes run ping at once.
func (m *monitor) check() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// set records the result of a ping.
func (m *monitor) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wasKnown, was := m.known, m.health
	m.known = true
	m.health.Err = err
	if up := err == nil; !wasKnown || up != was.Reachable {
		m.health.Reachable, m.health.Since = up, time.Now()
		close(m.change)
		m.change = make(chan struct{})
		switch {
		case !up:
			m.fell()
		case wasKnown:
			m.up, m.fell = context.WithCancel(context.Background())
		}
	}
	switch {
	case err != nil && (!wasKnown || was.Reachable):
		m.cfg.Log.Warn("cannot use the cluster store; what runs here does not depend on it", "store", m.cfg.Name, "err", oneLine(err))
	case err == nil && wasKnown && !was.Reachable:
		m.cfg.Log.Info("the cluster store can be used again", "store", m.cfg.Name, "after", time.Since(was.Since).Round(time.Millisecond))
	}
}

// Health returns the result of the last ping.
func (m *monitor) Health() Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health
}

// usable returns a context that ends when the store stops answering, or an error if it does not
// answer now. Before the first ping has ended, calls are tried.
func (m *monitor) usable() (context.Context, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known && !m.health.Reachable {
		return nil, unavailable{store: m.health.Store, since: m.health.Since, cause: m.health.Err}
	}
	return m.up, nil
}

// waitUp waits until the store answers.
func (m *monitor) waitUp(ctx context.Context) error {
	for {
		m.mu.Lock()
		up, change := m.health.Reachable, m.change
		m.mu.Unlock()
		if up {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-change:
		}
	}
}

// unavailable is ErrUnavailable with its cause. The cause is not unwrapped: a deadline of the
// ping's must not look like one of the caller's.
type unavailable struct {
	store string
	since time.Time // zero: only this call failed
	cause error
}

func (u unavailable) Is(target error) bool { return target == ErrUnavailable }

func (u unavailable) Error() string {
	lasting := ""
	if took := time.Since(u.since).Round(time.Second); !u.since.IsZero() && took > 0 {
		lasting = fmt.Sprintf(", for %v now", took)
	}
	return fmt.Sprintf("cannot use the cluster store %s%s: %s (check that it runs and admits this host; what runs here does not depend on it)",
		u.store, lasting, oneLine(u.cause))
}

// oneLine returns the text of an error without line breaks, and cut to 300 bytes.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}
