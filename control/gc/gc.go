// SPDX-License-Identifier: Apache-2.0

// Package gc expires conntrack entries. It scans the tables in user space. The datapath checks
// each candidate again and deletes it, so a flow that became active in the meantime is kept.
package gc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/maps"
)

// Flows is the datapath's flow tables. It is implemented by *maps.Conntrack.
type Flows interface {
	// Expired returns the keys of the flows that seem expired at now.
	Expired(now uint32) ([]maps.FlowKey, error)
	// Remove removes those of the flows that have expired.
	Remove(keys []maps.FlowKey, force bool) (removed int, err error)
	// Recount corrects the datapath's count of the flows that it keeps.
	Recount() error
}

// Bounds of the interval between two scans. A scan may take 1/costShare of one CPU's time.
const (
	minInterval   = time.Second
	startInterval = 5 * time.Second
	maxInterval   = 30 * time.Second
	costShare     = 50

	// many is the number of expired flows in a scan from which the next scan is earlier.
	many = 1024

	// warnInterval is the minimum interval between two warnings about a full table.
	warnInterval = time.Minute
)

// Config configures a Collector.
type Config struct {
	// Flows are the tables to scan. Required.
	Flows Flows
	// Now is the datapath's clock. The default is maps.Now.
	Now func() uint32
	// Refused returns how many packets were dropped so far because the flow table was full. If it
	// is nil, there are no warnings about that.
	Refused func() (uint64, error)
	// Log receives failed scans and warnings about a full table. Nil discards them.
	Log *slog.Logger
}

// Collector scans the flow tables periodically.
type Collector struct {
	flows   Flows
	now     func() uint32
	refused func() (uint64, error)
	log     *slog.Logger

	logged   uint64    // dropped packets that were logged, or dropped before the start
	loggedAt time.Time // zero before the first read

	mu    sync.Mutex
	stats Stats
}

// Stats are statistics of a Collector.
type Stats struct {
	Walks, Errors uint64
	Removed       uint64        // flows
	LastWalk      time.Duration // its duration
	Interval      time.Duration // until the next scan
}

// New returns a Collector. It does nothing until Run is called.
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

// Run scans until ctx ends.
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

// Collect scans once.
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
		c.log.Warn("cannot expire flows before the next scan", "err", err)
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

// warnFull logs, at most once per warnInterval, that packets of new connections are dropped.
func (c *Collector) warnFull(now time.Time) {
	if c.refused == nil {
		return
	}
	n, err := c.refused()
	if err != nil {
		c.log.Warn("cannot check whether the flow table is full", "err", err)
		return
	}
	if c.loggedAt.IsZero() { // earlier drops were logged by the previous daemon
		c.logged, c.loggedAt = n, now.Add(-warnInterval)
	}
	if n == c.logged || now.Sub(c.loggedAt) < warnInterval {
		return
	}
	c.log.Warn("the flow table is full; new connections are dropped (raise --ct-max)", "refused", n-c.logged)
	c.logged, c.loggedAt = n, now
}

// next returns the interval until the next scan: shorter while many flows expire, longer while
// none do, and never so short that scanning costs much.
func next(interval time.Duration, expired int, took time.Duration) time.Duration {
	switch {
	case expired >= many:
		interval /= 2
	case expired == 0:
		interval += interval / 2
	}
	return min(max(interval, minInterval, took*costShare), maxInterval)
}

// Stats returns the statistics so far.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
