// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Engines in a swarm know of each other: they share a network and allocate its addresses. The engine of a
// manager allocates the network, which then exists in Fairlead's cluster, with the swarm's ID; the engine of
// a host creates it there for the first of its containers. Fairlead claims the addresses that it is given.

// appearTime is how long a network that a manager has just allocated may take to be known here, and an
// address that an engine has released to be free in the store.
const appearTime = 2 * time.Second

// swarmID is the form of a swarm's IDs. An engine's own have 64 digits.
var swarmID = regexp.MustCompile(`^[0-9a-z]{25}$`)

// Networks creates and removes the networks of the cluster.
type Networks interface {
	CreateNetwork(ctx context.Context, spec model.NetworkSpec) (*model.Network, error)
	RemoveNetwork(ctx context.Context, ref string) error
}

// errNoSwarm refuses a swarm's network on a host that is not part of a cluster.
var errNoSwarm = model.Refuse(model.ErrForbidden, "the networks of a swarm are kept in the store of Fairlead's cluster, and the daemon of this host is not part of one (start it with --store etcd://HOST:2379, as on all hosts of the swarm; the managed plugin takes that in: docker plugin set PLUGIN args)")

// AllocateNetwork creates a network of a swarm in the cluster, with the subnets that the swarm allocated. It
// does nothing if it exists: each manager that becomes the leader requests it again.
func (e *Engine) AllocateNetwork(ctx context.Context, id string, spec model.NetworkSpec) error {
	switch {
	case !swarmID.MatchString(id):
		return model.Refuse(model.ErrInvalid, "invalid ID %q of a network of a swarm (want 25 digits and letters in lower case)", id)
	case e.cfg.Cluster() == nil:
		return errNoSwarm
	case inSwarm(e.Snapshot(), id) != nil:
		return nil
	}
	spec.Driver, spec.Swarm = model.DriverOverlay, id
	if name, ok := spec.Options[model.OptNetwork]; ok {
		spec.Name, spec.Options = name, withoutName(spec.Options)
	}
	_, err := e.cfg.Networks.CreateNetwork(ctx, spec)
	if errors.Is(err, model.ErrConflict) && e.awaitSwarm(ctx, id) != nil {
		return nil // another manager has created it
	}
	return err
}

func withoutName(options map[string]string) map[string]string {
	options = maps.Clone(options)
	delete(options, model.OptNetwork)
	return options
}

// FreeNetwork removes a network of a swarm from the cluster. If hosts still have containers in it, which the
// swarm is about to end, Reap does it later.
func (e *Engine) FreeNetwork(ctx context.Context, id string) error {
	n := inSwarm(e.Snapshot(), id)
	if n == nil {
		return nil
	}
	err := e.removeFreed(ctx, n)
	if errors.Is(err, model.ErrForbidden) {
		e.freed.Store(id, true)
		return nil
	}
	return err
}

func (e *Engine) removeFreed(ctx context.Context, n *model.Network) error {
	if n.EngineNetwork != "" {
		if err := e.RemoveEngineNetwork(ctx, n.EngineNetwork); err != nil {
			return err
		}
	}
	return e.cfg.Networks.RemoveNetwork(ctx, n.ID)
}

// reapFreed removes the networks that a swarm has freed and that have no members any more.
func (e *Engine) reapFreed(ctx context.Context) error {
	var errs []error
	e.freed.Range(func(id, _ any) bool {
		if n := inSwarm(e.Snapshot(), id.(string)); n != nil {
			err := e.removeFreed(ctx, n)
			if errors.Is(err, model.ErrForbidden) {
				return true
			}
			errs = append(errs, err)
		}
		e.freed.Delete(id)
		return true
	})
	return errors.Join(errs...)
}

// inSwarm returns the network of the cluster that is one of a swarm, or nil if there is none.
func inSwarm(s *desired.Snapshot, id string) *model.Network {
	for n := range s.Networks() {
		if n.Swarm == id {
			return n
		}
	}
	return nil
}

// awaitSwarm returns the network of the cluster that is one of a swarm, or nil if it does not appear soon.
func (e *Engine) awaitSwarm(ctx context.Context, id string) *model.Network {
	ctx, cancel := context.WithTimeout(ctx, appearTime)
	defer cancel()
	for {
		if n := inSwarm(e.Snapshot(), id); n != nil {
			return n
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// joinSwarm joins the engine to the network that a manager allocated.
func (e *Engine) joinSwarm(ctx context.Context, spec model.NetworkSpec) (*model.Network, error) {
	cluster := e.cfg.Cluster()
	if cluster == nil {
		return nil, errNoSwarm
	}
	n := e.awaitSwarm(ctx, spec.EngineID)
	switch {
	case n == nil:
		return nil, cmp.Or(cluster.Answers(), model.Refuse(model.ErrNotFound, "network %s of the swarm does not exist in the cluster of this host (let the daemons of all hosts use one store, see: fairlead node ls; then create the network again)", model.ShortID(spec.EngineID)))
	case spec.Internal:
		return nil, model.Refuse(model.ErrNotSupported, "network %s of the swarm is internal, which the swarm does not pass on in time (create it without --internal)", n.Name)
	case len(spec.Subnets) > len(n.Subnets):
		return nil, model.Refuse(model.ErrNotSupported, "network %s of the swarm has subnets of which the swarm passes on the first IPv4 one only (create it with one subnet, without --ipv6)", n.Name)
	}
	spec.Options = withoutName(spec.Options)
	return n, e.joinNetwork(ctx, n.ID, spec)
}

// reserveInSwarm makes the endpoint that has the address which the swarm allocated.
func (e *Engine) reserveInSwarm(ctx context.Context, n *model.Network, spec model.EndpointSpec) (*model.Endpoint, error) {
	spec.Exact = true
	for until := time.Now().Add(appearTime); ; {
		if err := e.evictFrom(ctx, n, spec.IPv4); err != nil {
			return nil, err
		}
		ep, err := e.claimInSwarm(ctx, n, spec)
		if !errors.Is(err, model.ErrConflict) || time.Now().After(until) || ctx.Err() != nil {
			return ep, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (e *Engine) claimInSwarm(ctx context.Context, n *model.Network, spec model.EndpointSpec) (ep *model.Endpoint, err error) {
	err = e.claim(ctx, n, &spec, model.Member{ID: spec.EngineID}, func() error {
		return e.state.Update(ctx, func(t *txn.Tx) error {
			n := t.Next.Network(n.ID)
			if n == nil || n.EngineNetwork == "" {
				return unknownNetwork(spec.EngineID)
			}
			t.StoreOnly = !n.Idle
			n, err := resource.Activate(ctx, t, n, spec.Claim)
			if err != nil {
				return err
			}
			if ep, err = resource.NewEndpoint(t, n, spec); err == nil {
				putReserved(t, ep)
			}
			return err
		})
	})
	return ep, err
}

// evictFrom releases the endpoint whose address the swarm has given to another one, unless a process may still
// use it: the engine lost track of it.
func (e *Engine) evictFrom(ctx context.Context, n *model.Network, a netip.Addr) error {
	ep := e.Snapshot().MemberWithAddr(n.ID, a)
	if ep == nil || ep.SandboxID != "" && !slices.ContainsFunc(e.orphanedEndpoints(e.Snapshot()), func(o *model.Endpoint) bool { return o.ID == ep.ID }) {
		return nil
	}
	return e.ReleaseEndpoint(ctx, ep.ID)
}
