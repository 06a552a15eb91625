// SPDX-License-Identifier: Apache-2.0

// Package leaving makes sure that no node sends a new flow to a backend of a service that is removed on
// another one: the backend is published as leaving, every node confirms in the cluster's store when its
// tables are without it, and the removal waits for that.
package leaving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/layout"
)

const (
	// patience is how long a removal waits for nodes that live.
	patience = 3 * time.Second
	// look is how often it checks whether they live, and whether the store answers.
	look = 250 * time.Millisecond
	// transit is how long a packet that was sent before a confirmation may be under way, and the
	// handshake of the flow that it begins.
	transit = 100 * time.Millisecond
	retry   = 500 * time.Millisecond
)

// Config configures Leaving. All fields are required.
type Config struct {
	Store kv.Store
	Node  string // this node's ID
	// Alive returns the IDs of the other nodes that use a network and are connected to the store.
	Alive func(network string) []string
	Log   *slog.Logger
}

// Leaving confirms what other nodes remove, and waits for their confirmations. All methods may be called
// concurrently.
type Leaving struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex
	wanted  map[string][]string // the members to confirm, by network
	written map[string][]string
}

// New returns a Leaving that confirms nothing until Run.
func New(cfg Config) *Leaving {
	return &Leaving{cfg: cfg, wake: make(chan struct{}, 1), wanted: map[string][]string{}, written: map[string][]string{}}
}

// Confirm makes these, sorted, the leaving members of a network that get no new flow from this node. It does
// not wait for the store.
func (l *Leaving) Confirm(network string, members []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(l.written[network], members) {
		delete(l.wanted, network)
		return
	}
	l.wanted[network] = members
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes the confirmations of this node until ctx ends.
func (l *Leaving) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.wake:
		}
		for l.write(ctx) != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-kv.Again(ctx, l.cfg.Store, retry):
			}
		}
	}
}

// write writes what is not in the store yet.
func (l *Leaving) write(ctx context.Context) error {
	l.mu.Lock()
	work := l.wanted
	l.wanted = map[string][]string{}
	for network, members := range work {
		l.written[network] = members
	}
	l.mu.Unlock()
	var errs []error
	for network, members := range work {
		key := layout.ConfirmedKey(network, l.cfg.Node)
		op := kv.Delete(key)
		if len(members) > 0 {
			op = kv.Put(key, layout.Encode(layout.Confirmation{Members: members}))
		}
		err := l.cfg.Store.Commit(ctx, nil, op)
		if err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("confirm the members of network %s that leave: %w", network, err))
		l.mu.Lock()
		delete(l.written, network)
		if _, newer := l.wanted[network]; !newer {
			l.wanted[network] = members
		}
		l.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Await waits until all other nodes of a network have confirmed these members, which are published as
// leaving. It does not wait for nodes that do not live, nor while the store does not answer, and for no more than
// a few seconds.
func (l *Leaving) Await(ctx context.Context, network string, members []string) {
	if len(l.cfg.Alive(network)) == 0 {
		return
	}
	late, err := l.await(ctx, network, members)
	if err != nil || len(late) > 0 {
		l.cfg.Log.Warn("removing a backend although other nodes may send it new connections for a moment",
			"unconfirmed", strings.Join(late, ","), "err", err)
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(transit):
	}
}

func (l *Leaving) await(ctx context.Context, network string, members []string) (late []string, err error) {
	w, err := l.cfg.Store.Watch(layout.ConfirmedOf(network))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	confirmed := map[string][]string{}
	until := time.Now().Add(patience)
	for {
		late = late[:0]
		for _, node := range l.cfg.Alive(network) {
			if slices.ContainsFunc(members, func(id string) bool { return !slices.Contains(confirmed[node], id) }) {
				late = append(late, node)
			}
		}
		h := l.cfg.Store.Health()
		if len(late) == 0 || !time.Now().Before(until) || !h.Reachable {
			return late, h.Err
		}
		within, cancel := context.WithTimeout(ctx, look)
		u, err := w.Next(within)
		cancel()
		switch {
		case err == nil:
			l.note(confirmed, network, u)
		case ctx.Err() != nil || within.Err() == nil:
			return late, err
		}
	}
}

// note adds an update to what nodes have confirmed.
func (l *Leaving) note(confirmed map[string][]string, network string, u kv.Update) {
	if u.Reset {
		clear(confirmed)
	}
	for _, key := range u.Deleted {
		delete(confirmed, strings.TrimPrefix(key, layout.ConfirmedOf(network)))
	}
	for _, e := range u.Entries {
		var c layout.Confirmation
		if err := layout.Decode(e.Key, e.Value, &c); err != nil {
			l.cfg.Log.Warn("cannot read a node's confirmation", "key", e.Key, "err", err)
			continue
		}
		confirmed[strings.TrimPrefix(e.Key, layout.ConfirmedOf(network))] = c.Members
	}
}
