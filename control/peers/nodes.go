// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"log/slog"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// downAfter is how long a node must have given no sign of life, on top of the time in which the
	// store keeps the last one.
	downAfter = 5 * time.Second
	// connected is how long this node must have reached the store without a break to say of others that
	// they are down: after an outage all signs of life are gone, and come back one by one.
	connected = time.Minute
	// together is the time in which half of all nodes do not go down for separate reasons.
	together = time.Minute
)

// nodes are the nodes of the cluster, this one included.
type nodes struct {
	byID   map[string]model.Node
	listed bool            // by the store, since the start
	paths  map[string]Path // to other nodes, by ID

	alive map[string]bool
	lost  map[string]time.Time // since when a node gives no sign of life
	lists bool                 // signs of life were listed
}

func newNodes() *nodes {
	return &nodes{byID: map[string]model.Node{}, paths: map[string]Path{}, alive: map[string]bool{}, lost: map[string]time.Time{}}
}

// number returns a node's number, or 0 if it is not known.
func (ns *nodes) number(id string) uint16 { return ns.byID[id].Number }

// apply applies an update of records. It returns the keys that no longer exist, and the nodes whose
// number is new.
func (ns *nodes) apply(u kv.Update, log *slog.Logger) (gone []string, renumbered map[string]bool) {
	gone, renumbered = u.Deleted, map[string]bool{}
	if u.Reset {
		ns.listed = true
		has := make(map[string]bool, len(u.Entries))
		for _, e := range u.Entries {
			has[e.Key] = true
		}
		for id := range ns.byID {
			if !has[layout.NodeKey(id)] {
				gone = append(gone, layout.NodeKey(id))
			}
		}
	}
	for _, e := range u.Entries {
		var node model.Node
		if err := layout.Decode(e.Key, e.Value, &node); err != nil {
			log.Error("the record of a node cannot be read; what was known of it stays", "key", e.Key, "err", err)
			continue
		}
		if ns.number(node.ID) != node.Number {
			renumbered[node.ID] = true
		}
		ns.byID[node.ID] = node
	}
	for _, key := range gone {
		delete(ns.byID, strings.TrimPrefix(key, layout.Nodes))
	}
	return gone, renumbered
}

// noteAlive applies an update of signs of life.
func (ns *nodes) noteAlive(u kv.Update, now time.Time) {
	if u.Reset {
		clear(ns.alive)
		ns.lists = true
	}
	for _, key := range u.Deleted {
		delete(ns.alive, strings.TrimPrefix(key, layout.Alive))
	}
	for _, e := range u.Entries {
		id := strings.TrimPrefix(e.Key, layout.Alive)
		ns.alive[id] = true
		delete(ns.lost, id)
	}
	for id := range ns.byID {
		if _, known := ns.lost[id]; ns.lists && !known && !ns.alive[id] {
			ns.lost[id] = now
		}
	}
	for id := range ns.lost {
		if _, exists := ns.byID[id]; !exists {
			delete(ns.lost, id)
		}
	}
}

// isDown reports whether a node has not been heard of for a while, as far as this node can tell.
func (ns *nodes) isDown(id string, h kv.Health, now time.Time) bool {
	since, lost := ns.lost[id]
	if !lost || ns.alive[id] || !ns.lists || now.Sub(since) < downAfter {
		return false
	}
	if !h.Reachable || now.Sub(h.Since) < connected {
		return false
	}
	recent := 0
	for _, at := range ns.lost {
		if now.Sub(at) < together {
			recent++
		}
	}
	return now.Sub(since) >= together || 2*recent < len(ns.byID)
}
