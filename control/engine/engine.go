// SPDX-License-Identifier: Apache-2.0

// Package engine holds the verbs of a container engine, which manages networks and sandboxes
// itself and requests addresses, devices and published ports from Fairlead. An engine reserves an
// endpoint, then joins a sandbox to it, then publishes ports. It may repeat any of them, and abort
// between any two: [Engine.Reap] removes what is left behind. This package does not depend on the
// kind of the engine or on its protocol.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// InnerEnds is the interface to the code that finds the devices of endpoints.
type InnerEnds interface {
	// InnerEnd returns where the inner end of an engine-managed endpoint is.
	InnerEnd(ep *model.Endpoint) (model.InnerEnd, error)
}

// Cluster is the part of a cluster that engines' endpoints in shared networks need.
type Cluster interface {
	resource.Claimer
	// Answers returns a refusal if the cluster's store does not answer.
	Answers() error
}

// Config configures an Engine.
type Config struct {
	Inner InnerEnds // required
	// Cluster returns the cluster that this host is part of, or nil if it is not. The default is none.
	Cluster func() Cluster
	// Networks creates the networks of a swarm. Required if Cluster returns one.
	Networks Networks
	// StartGrace is how long a container engine may take to move the inner end of an endpoint
	// that it requested. 0: one minute.
	StartGrace time.Duration
}

// Engine executes the verbs of container engines, as changes of a State that it shares with
// others.
type Engine struct {
	cfg   Config
	state *txn.State
	freed sync.Map // IDs of networks that a swarm has freed and that still have members
}

// New returns an Engine of a state, which something else starts.
func New(state *txn.State, cfg Config) (*Engine, error) {
	if cfg.Inner == nil {
		return nil, errors.New("engine: no lookup of inner ends")
	}
	if cfg.Cluster == nil {
		cfg.Cluster = func() Cluster { return nil }
	}
	if cfg.StartGrace == 0 {
		cfg.StartGrace = time.Minute
	}
	return &Engine{cfg: cfg, state: state}, nil
}

// Snapshot returns the state after the last successful verb.
func (e *Engine) Snapshot() *desired.Snapshot { return e.state.Snapshot() }

// CreateNetwork creates a network that the engine manages, or joins the engine to the shared network whose
// subnets it has requested.
func (e *Engine) CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	if swarmID.MatchString(spec.EngineID) {
		return e.joinSwarm(ctx, spec)
	}
	n, err := sharedNetwork(e.Snapshot(), &spec)
	switch {
	case err != nil:
		return nil, err
	case n != nil:
		return n, e.joinNetwork(ctx, n.ID, spec)
	}
	return resource.CreateNetwork(ctx, e.state, spec)
}

// RemoveEngineNetwork removes an engine-managed network. It succeeds if there is
// none. A shared network stays, without the engine.
func (e *Engine) RemoveEngineNetwork(ctx context.Context, id string) error {
	var n *model.Network
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.EngineNetwork, id)
		t.Needs(txn.Network, id)
		if n = t.Next.EngineNetwork(id); n == nil {
			if n = t.Next.Network(id); n != nil {
				return model.Refuse(model.ErrForbidden, "network %s is managed by Fairlead (use: fairlead network rm)", n.Name)
			}
			return nil
		}
		if n.Has().Shared {
			return leaveNetwork(t, n)
		}
		return resource.RemoveNetwork(t, n)
	})
	switch {
	case err != nil || n == nil:
	case n.Has().Shared:
		e.state.Log().Info("engine left a network of the cluster", "network", n.Name, "id", model.ShortID(id))
	default:
		e.state.Log().Info("removed network", "network", n.Name, "id", model.ShortID(n.ID))
	}
	return err
}

// Reap removes endpoints that an engine has left behind. Call it every few seconds.
func (e *Engine) Reap(ctx context.Context) error {
	if err := e.reapFreed(ctx); err != nil {
		return fmt.Errorf("remove networks of the swarm: %w", err)
	}
	if len(e.orphanedEndpoints(e.Snapshot())) == 0 { // check without the lock first: usually there is nothing to do
		return nil
	}
	released := 0
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		t.IgnoreApplyErr = true
		busy := func(ep *model.Endpoint) bool { return ep.SandboxID != "" && t.Applying(ep.SandboxID) }
		orphaned := slices.DeleteFunc(e.orphanedEndpoints(t.Next), busy) // the others wait for the next call
		for _, ep := range orphaned {
			releaseEndpoint(t, ep)
		}
		released = len(orphaned)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reap endpoints: %w", err)
	}
	if released > 0 {
		e.state.Log().Info("removed endpoints orphaned by an engine", "count", released)
	}
	return nil
}

// orphanedEndpoints lists the endpoints that a container engine has left behind: their
// devices were deleted with its namespace, or it did not move the inner end within
// StartGrace. This does not depend on the path of the namespace, which may not be visible
// to this process.
func (e *Engine) orphanedEndpoints(s *desired.Snapshot) []*model.Endpoint {
	var out []*model.Endpoint
	for ep := range s.Endpoints() {
		if ep.Reserved.IsZero() {
			continue
		}
		inner := model.InnerOnHost
		if ep.SandboxID != "" {
			var err error
			if inner, err = e.cfg.Inner.InnerEnd(ep); err != nil {
				e.state.Log().Warn("cannot determine whether the engine still uses the endpoint; keeping it", "endpoint", model.ShortID(ep.ID), "err", err)
				continue
			}
		}
		late := e.state.Now().Sub(ep.Reserved) > e.cfg.StartGrace
		if inner == model.InnerDeleted || inner == model.InnerOnHost && late {
			out = append(out, ep)
		}
	}
	return out
}

// retryAfterReap runs fn in a transaction. If fn conflicts with something and the engine has
// orphaned endpoints (because it was killed, for example), it reaps those and retries once.
func (e *Engine) retryAfterReap(ctx context.Context, fn func(*txn.Tx) error) error {
	err := e.state.Update(ctx, fn)
	if !errors.Is(err, model.ErrConflict) || len(e.orphanedEndpoints(e.Snapshot())) == 0 {
		return err
	}
	if err := e.Reap(ctx); err != nil {
		return err
	}
	return e.state.Update(ctx, fn)
}
