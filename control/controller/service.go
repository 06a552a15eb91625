// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Service finds a service by full ID, by name, by NAME.NETWORK, or by a unique prefix of its ID.
func (c *Controller) Service(ref string) (*model.Service, error) {
	return c.Snapshot().FindService(ref)
}

// CreateService creates a service in a network.
func (c *Controller) CreateService(ctx context.Context, spec model.ServiceSpec) (*model.Service, error) {
	if err := resource.ValidateService(spec); err != nil {
		return nil, err
	}
	if n, err := c.Snapshot().FindNetwork(spec.Network); err == nil && n.Has().Shared {
		return c.createSharedService(ctx, n, spec)
	}
	var svc *model.Service
	var n *model.Network
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if n, err = t.Next.FindNetwork(spec.Network); err != nil {
			return err
		}
		svc, err = resource.AddService(t, n, spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.state.Log().Info("created service", "service", svc.Name, "network", n.Name, "ipv4", model.AddrText(svc.IPv4), "ipv6", model.AddrText(svc.IPv6))
	return svc, nil
}

// RemoveService removes a service. Flows through it end.
func (c *Controller) RemoveService(ctx context.Context, ref string) error {
	svc, err := c.decidedService(ctx, ref)
	if err != nil {
		return err
	}
	if svc.Cluster != "" {
		if err := c.removeSharedService(ctx, svc); err != nil {
			return err
		}
	}
	err = c.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Service, svc.ID)
		now := t.Next.Service(svc.ID)
		switch {
		case now != nil:
			resource.RemoveService(t, now)
			c.noteRemoved(t, svc, true)
		case svc.Cluster == "": // another client was faster
			return model.NoService(ref)
		}
		return nil // the watch over the cluster's services was faster
	})
	if err == nil {
		c.state.Log().Info("removed service", "service", svc.Name, "id", model.ShortID(svc.ID))
	}
	return err
}

// decidedService finds a service, which the kernel may not have yet: whether the cluster has it does not wait
// for that.
func (c *Controller) decidedService(ctx context.Context, ref string) (*model.Service, error) {
	s, err := c.state.Decided(ctx)
	if err != nil {
		return nil, err
	}
	return s.FindService(ref)
}

// DrainBackend makes a backend of a service keep its flows and get no new ones. With drained
// unset it gets new flows again. It succeeds if the backend is in that state already.
func (c *Controller) DrainBackend(ctx context.Context, ref, sandboxRef string, drained bool) error {
	svc, err := c.decidedService(ctx, ref)
	if err != nil {
		return err
	}
	if svc.Cluster != "" {
		return c.drainShared(ctx, svc, sandboxRef, drained)
	}
	var sb *model.Sandbox
	changed := false
	err = c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if svc, err = t.Next.FindService(ref); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		ep := t.Next.Connection(sb.ID, svc.NetworkID)
		if ep == nil || !svc.HasBackend(ep) {
			return refuseBackend(sb.Name, svc, t.Next.Network(svc.NetworkID))
		}
		if t.Needs(txn.Service, svc.ID); svc.IsDrained(ep.ID) == drained {
			return nil
		}
		changed = true
		now := *svc
		// Endpoints that do not exist any more are forgotten.
		now.Drained = slices.DeleteFunc(slices.Clone(svc.Drained), func(id string) bool { return id == ep.ID || t.Next.Endpoint(id) == nil })
		if drained {
			now.Drained = append(now.Drained, ep.ID)
		}
		t.PutService(now.ID, &now)
		return nil
	})
	if err == nil && changed {
		c.state.Log().Info("changed backend", "service", svc.Name, "sandbox", sb.Name, "drained", drained)
	}
	return err
}

// createSharedService creates a service in the cluster, and here.
func (c *Controller) createSharedService(ctx context.Context, n *model.Network, spec model.ServiceSpec) (*model.Service, error) {
	if err := model.RefuseInSwarm(n); err != nil {
		return nil, err
	}
	cluster := c.cfg.Cluster()
	if cluster == nil {
		return nil, errNoCluster
	}
	plan := func(v4, v6 netip.Addr) (svc *model.Service, err error) {
		err = c.state.Plan(ctx, func(t *txn.Tx) error {
			at := spec
			at.IPv4, at.IPv6 = v4, v6
			svc, err = resource.PlanService(t, n, at)
			return err
		})
		if err == nil {
			svc.FixedIPs = spec.IPv4.IsValid() || spec.IPv6.IsValid()
		}
		return svc, err
	}
	// What is refused in any case is refused without the store.
	if _, err := plan(spec.IPv4, spec.IPv6); err != nil {
		return nil, err
	}
	svc, err := cluster.CreateService(ctx, n, spec, resource.NewID(c.Snapshot().ServicesByPrefix), plan)
	if err != nil {
		return nil, err
	}
	// It may be removed again already, by whomever.
	err = c.adoptService(ctx, svc, func(removal) bool { return true })
	if err == nil && len(svc.Ports) > 0 {
		err = c.UseNetwork(ctx, n.ID)
	}
	if err != nil {
		return nil, errors.Join(err, cluster.RemoveService(context.WithoutCancel(ctx), n, svc))
	}
	c.state.Log().Info("created service", "service", svc.Name, "network", n.Name, "ipv4", model.AddrText(svc.IPv4), "ipv6", model.AddrText(svc.IPv6))
	if here := c.Snapshot().Service(svc.ID); here != nil {
		return here, nil
	}
	return svc, nil // another client has removed it since
}

func (c *Controller) removeSharedService(ctx context.Context, svc *model.Service) error {
	cluster, n := c.cfg.Cluster(), c.Snapshot().Network(svc.NetworkID)
	if cluster == nil || n == nil {
		return nil // it is removed here only
	}
	return cluster.RemoveService(ctx, n, svc)
}

// lateWatch is for how long after its removal the watch over the cluster's services may report one.
const lateWatch = 10 * time.Minute

// removal is the removal of a service: by a verb of this host, or because the watch reported it.
type removal struct {
	at     time.Time
	byVerb bool
}

// noteRemoved records that a service of the cluster was removed here.
func (c *Controller) noteRemoved(t *txn.Tx, svc *model.Service, byVerb bool) {
	now := t.Now()
	maps.DeleteFunc(c.removed, func(_ string, r removal) bool { return now.Sub(r.at) > lateWatch })
	if svc.Cluster != "" {
		c.removed[svc.ID] = removal{now, byVerb}
		t.OnUndo(func() { delete(c.removed, svc.ID) })
	}
}

// AdoptService adds a service of the cluster, or makes the local one the same. Ports that this host
// cannot publish are left out. It does nothing if a verb has removed the service: what the caller knows is
// outdated.
func (c *Controller) AdoptService(ctx context.Context, shared *model.Service) error {
	return c.adoptService(ctx, shared, func(r removal) bool { return r.byVerb })
}

// adoptService is AdoptService, unless the service was removed in a way that is final.
func (c *Controller) adoptService(ctx context.Context, shared *model.Service, final func(removal) bool) error {
	added, refused := false, []error(nil)
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		t.Needs(txn.Service, shared.ID)
		if r, ok := c.removed[shared.ID]; ok && final(r) {
			return nil
		}
		added = t.Next.Service(shared.ID) == nil
		refused, err = resource.AdoptService(t, shared)
		return err
	})
	if err == nil && added {
		c.state.Log().Info("added service of the cluster", "service", shared.Name, "id", model.ShortID(shared.ID))
		for _, err := range refused {
			c.state.Log().Warn("a port of a service of the cluster is not published on this host", "service", shared.Name, "err", err)
		}
	}
	return err
}

// ForgetService removes a service that another node removed from the cluster.
func (c *Controller) ForgetService(ctx context.Context, id string) error {
	var svc *model.Service
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Service, id)
		if svc = t.Next.Service(id); svc != nil {
			resource.RemoveService(t, svc)
			c.noteRemoved(t, svc, false)
		}
		return nil
	})
	if err == nil && svc != nil {
		c.state.Log().Info("removed service: another node removed it from the cluster", "service", svc.Name, "id", model.ShortID(id))
	}
	return err
}

// UseNetwork makes this host a member of a shared network, although it may have no endpoint there: the
// network has services with published ports.
func (c *Controller) UseNetwork(ctx context.Context, id string) error {
	n := c.Snapshot().Network(id)
	if n == nil || !n.Idle {
		return nil
	}
	cluster := c.cfg.Cluster()
	if cluster == nil {
		return errNoCluster
	}
	claim, err := cluster.Claim(ctx, n, model.EndpointSpec{Exact: true}, model.Member{})
	if err != nil {
		return err
	}
	defer cluster.Done(claim)
	return c.state.Update(ctx, func(t *txn.Tx) error {
		t.Needs(txn.Network, id)
		n := t.Next.Network(id)
		if n == nil || !resource.HasPorts(t.Next, id) {
			return nil // removed meanwhile
		}
		_, err := resource.Activate(ctx, t, n, claim)
		return err
	})
}

// drainShared is DrainBackend for a backend on this host of a service of the cluster.
func (c *Controller) drainShared(ctx context.Context, svc *model.Service, sandboxRef string, drained bool) error {
	sb, err := c.Snapshot().FindSandbox(sandboxRef)
	if err != nil {
		return err
	}
	ep := c.Snapshot().Connection(sb.ID, svc.NetworkID)
	if ep == nil || !svc.HasBackend(ep) {
		return refuseBackend(sb.Name, svc, c.Snapshot().Network(svc.NetworkID))
	}
	return c.DrainMember(ctx, svc, ep.ID, sb.Name, drained)
}

func refuseBackend(sandbox string, svc *model.Service, n *model.Network) error {
	return model.Refuse(model.ErrInvalid, "sandbox %q is not a backend of service %s (its alias in network %s must be %[2]s; see: fairlead service inspect %[2]s)",
		sandbox, svc.Name, n.Name)
}

// DrainMember is DrainBackend for a backend on any node, of which the endpoint's ID and the sandbox's name
// are given.
func (c *Controller) DrainMember(ctx context.Context, svc *model.Service, endpoint, sandbox string, drained bool) error {
	cluster := c.cfg.Cluster()
	if cluster == nil {
		return errNoCluster
	}
	now, err := cluster.ChangeService(ctx, svc, func(s *model.Service) {
		s.Drained = slices.DeleteFunc(s.Drained, func(id string) bool { return id == endpoint })
		if drained {
			s.Drained = append(s.Drained, endpoint)
		}
	})
	if err != nil {
		return err
	}
	now.Cluster = svc.Cluster
	if err := c.AdoptService(ctx, now); err != nil {
		return err
	}
	c.state.Log().Info("changed backend", "service", svc.Name, "sandbox", sandbox, "drained", drained)
	return nil
}
