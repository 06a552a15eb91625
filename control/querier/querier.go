// SPDX-License-Identifier: Apache-2.0

// Package querier queries the members of networks that span nodes for the multicast groups that they
// listen to (RFC 3376, RFC 3810). The datapath notes the answers, here and on the other nodes. Each
// node queries its own members only.
package querier

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/maps/flood"
)

const (
	tick = time.Second
	// interval is the time between two queries of a network (RFC 3376 section 8.2).
	interval = 125 * time.Second
	// soon is the least time between two queries: all answers to the one before have arrived.
	soon = 3 * time.Second
	// first is how many queries follow one another soon when a node begins to listen. The datapath
	// concludes nothing from fewer.
	first = 3
)

// Config configures a Querier. All fields are required.
type Config struct {
	// Networks returns the nodes with members of each network that has members here.
	Networks func() map[uint32][]uint16
	// Heard returns what the datapath knows of the members here, and whether it notes anything.
	Heard func(net uint32) (flood.Heard, bool, error)
	// Query sends a query to the members of a network on this host.
	Query func(net uint32) error
	Log   *slog.Logger
}

// Querier queries periodically.
type Querier struct {
	cfg  Config
	nets map[uint32]*network
}

// network is the state of one network.
type network struct {
	nodes  []uint16
	left   int // of the first queries
	last   time.Time
	next   time.Time
	failed bool
}

// New returns a Querier. It does nothing until Run is called.
func New(cfg Config) *Querier { return &Querier{cfg: cfg, nets: map[uint32]*network{}} }

// Run queries until ctx ends.
func (q *Querier) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		q.round(time.Now())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// round sends the queries that are due.
func (q *Querier) round(now time.Time) {
	nets := q.cfg.Networks()
	for net := range q.nets {
		if len(nets[net]) == 0 {
			delete(q.nets, net)
		}
	}
	for net, nodes := range nets {
		if len(nodes) == 0 {
			continue
		}
		n := q.nets[net]
		if n == nil {
			n = &network{}
			q.nets[net] = n
		}
		if !slices.Equal(n.nodes, nodes) { // those that are new know nothing of the members here
			n.nodes, n.left, n.next = nodes, first, now
		}
		if now.Sub(n.last) >= soon && (!now.Before(n.next) || q.hasLeft(net)) {
			q.query(net, n, now)
		}
	}
}

// hasLeft reports whether a member has left a group since the last query.
func (q *Querier) hasLeft(net uint32) bool {
	h, ok, err := q.cfg.Heard(net)
	if err != nil || !ok {
		return false
	}
	for f, at := range h.Left {
		if at != 0 && at >= h.Asked[f][0] {
			return true
		}
	}
	return false
}

func (q *Querier) query(net uint32, n *network, now time.Time) {
	err := q.cfg.Query(net)
	switch {
	case err == nil:
		n.left = max(0, n.left-1)
	case !n.failed:
		q.cfg.Log.Warn("cannot query members for multicast groups; other nodes know those of the last query", "network", net, "err", err)
	}
	n.failed = err != nil
	n.last, n.next = now, now.Add(interval)
	if n.failed || n.left > 0 {
		n.next = now.Add(soon)
	}
}
