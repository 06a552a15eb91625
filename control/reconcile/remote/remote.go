// SPDX-License-Identifier: Apache-2.0

// Package remote updates the entries of services whose backends on other nodes change, which no snapshot has.
package remote

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/pass"
)

// settle is how long changes on other nodes are collected: a service's tables are computed
// again for each, and a node that starts brings many.
const settle = 20 * time.Millisecond

// Changes are the networks whose backends on other nodes changed.
type Changes struct {
	state    *pass.State
	wake     chan struct{}                                   // has a token if there are any
	applying func(networks map[string]bool) (applied func()) // the lock of the state guards it

	mu       sync.Mutex // guards what follows
	networks map[string]bool
}

// New returns no Changes.
func New(s *pass.State) *Changes {
	return &Changes{state: s, wake: make(chan struct{}, 1), networks: make(map[string]bool)}
}

// SetSource sets the source of the backends that services have on other nodes. applying is called before a change is
// applied, and what it returns afterwards, unless that failed.
func (c *Changes) SetSource(backends func(*model.Service) []objects.RemoteBackend, applying func(networks map[string]bool) (applied func())) {
	c.state.Mu.Lock()
	defer c.state.Mu.Unlock()
	c.state.Objects.Remote, c.applying = backends, applying
}

// Add schedules the services of a network whose members on other nodes changed. It does not wait.
func (c *Changes) Add(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.networks[network] = true
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns the networks that changed since the last call.
func (c *Changes) take() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.networks
	c.networks = make(map[string]bool)
	return changed
}

// Run updates the services of changed networks until ctx ends.
func (c *Changes) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		if err := c.Update(ctx); err != nil {
			c.state.Log.Error("cannot update services after a change on another node; the next check tries again", "err", err)
		}
	}
}

// Update updates the services of the networks that changed.
func (c *Changes) Update(ctx context.Context) error {
	changed := c.take()
	s := c.state
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Snap == nil {
		return nil // the first snapshot finds them
	}
	applied := c.applying(changed)
	if err := ctx.Err(); err != nil {
		return err
	}
	p := s.Begin(s.Snap, device.State{})
	for id := range changed {
		p.TouchServices(id)
	}
	if len(p.Services) > 0 {
		p.Run()
	}
	if len(p.Errs) == 0 {
		applied()
	}
	return errors.Join(p.Errs...)
}
