// SPDX-License-Identifier: Apache-2.0

// Package gc has the datapath forget the flows whose time is over. The tables
// are walked here, but each flow is judged again and removed in the kernel, so
// that one that lives on meanwhile is kept.
package gc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/maps"
)

// Flows is the datapath's flow tables; *maps.Conntrack is one.
type Flows interface {
	// Expired returns the keys of the flows that look overdue at now.
	Expired(now uint32) ([]maps.FlowKey, error)
	// Remove removes those of the flows that are overdue.
	Remove(keys []maps.FlowKey, force bool) (removed int, err error)
	// Recount corrects the datapath's count of the flows that it keeps.
	Recount() error
}

// Bounds of the time between two walks, and the share of one CPU that walking
// may cost.
const (
	minInterval   = time.Second
	startInterval = 5 * time.Second
	maxInterval   = 30 * time.Second
	costShare     = 50

	// many expired flows at one walk: the next one shall come sooner.
	many = 1024

	// warnInterval is the least time between two warnings that the table is full.
	warnInterval = time.Minute
)

// Config is what New needs.
type Config struct {
	// Flows are the tables to walk. Required.
	Flows Flows
	// Now is the datapath's clock. Nil: maps.Now.
	Now func() uint32
	// Refused returns how many packets were refused so far because the table of
	// flows is full. Nil: it is not watched.
	Refused func() (uint64, error)
	// Log is told about walks that failed, and about a full table. Nil: nobody.
	Log *slog.Logger
}

// Collector walks the flow tables again and again.
type Collector struct {
	flows   Flows
	now     func() uint32
	refused func() (uint64, error)
	log     *slog.Logger

	told   uint64    // refused packets that were logged, or from before
	toldAt time.Time // when; zero: not yet looked

	mu    sync.Mutex
	stats Stats
}

// Stats is what a Collector did so far.
type Stats struct {
	Walks, Errors uint64
	Removed       uint64        // flows
	LastWalk      time.Duration // how long it took
	Interval      time.Duration // until the next one
}

// New returns a Collector. It does nothing until Run.
func New(cfg Config) *Collector {
	c := &Collector{flows: cfg.Flows, now: cfg.Now, refused: cfg.Refused, log: cfg.Log, stats: Stats{Interval: startInterval}}
	if c.now == nil {
		c.now = maps.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Run walks until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Stats().Interval):
			c.Collect()
		}
	}
}

// Collect walks once.
func (c *Collector) Collect() {
	start := time.Now()
	keys, err := c.flows.Expired(c.now())
	removed := 0
	if err == nil && len(keys) > 0 {
		removed, err = c.flows.Remove(keys, false)
	}
	if err == nil {
		err = c.flows.Recount()
	}
	if err != nil {
		c.log.Warn("expired flows stay for now", "err", err)
	}
	c.warnFull(start)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.stats
	s.Walks++
	if err != nil {
		s.Errors++
	}
	s.Removed += uint64(removed)
	s.LastWalk = time.Since(start)
	s.Interval = next(s.Interval, len(keys), s.LastWalk)
}

// warnFull logs, once in a while, that new connections are refused.
func (c *Collector) warnFull(now time.Time) {
	if c.refused == nil {
		return
	}
	n, err := c.refused()
	if err != nil {
		c.log.Warn("cannot tell whether the table of flows is full", "err", err)
		return
	}
	if c.toldAt.IsZero() { // those before are another daemon's to tell
		c.told, c.toldAt = n, now.Add(-warnInterval)
	}
	if n == c.told || now.Sub(c.toldAt) < warnInterval {
		return
	}
	c.log.Warn("the table of flows is full: new connections are refused (raise --ct-max)", "refused", n-c.told)
	c.told, c.toldAt = n, now
}

// next is the time until the next walk: shorter while much expires, longer
// while nothing does, and never so short that walking costs much.
func next(interval time.Duration, expired int, took time.Duration) time.Duration {
	switch {
	case expired >= many:
		interval /= 2
	case expired == 0:
		interval += interval / 2
	}
	return min(max(interval, minInterval, took*costShare), maxInterval)
}

// Stats returns what was done so far.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
