// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"

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
	var svc *model.Service
	var n *model.Network
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if n, err = t.Next.FindNetwork(spec.Network); err != nil {
			return err
		}
		svc, err = resource.AddService(ctx, t, n, spec)
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
	var svc *model.Service
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if svc, err = t.Next.FindService(ref); err != nil {
			return err
		}
		resource.RemoveService(t, svc)
		return nil
	})
	if err == nil {
		c.state.Log().Info("removed service", "service", svc.Name, "id", model.ShortID(svc.ID))
	}
	return err
}

// DrainBackend makes a backend of a service keep its flows and get no new ones. With drained
// unset it gets new flows again. It succeeds if the backend is in that state already.
func (c *Controller) DrainBackend(ctx context.Context, ref, sandboxRef string, drained bool) error {
	var svc *model.Service
	var sb *model.Sandbox
	changed := false
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if svc, err = t.Next.FindService(ref); err != nil {
			return err
		}
		if sb, err = t.Next.FindSandbox(sandboxRef); err != nil {
			return err
		}
		ep := t.Next.Connection(sb.ID, svc.NetworkID)
		if ep == nil || !svc.HasBackend(ep) {
			return model.Refuse(model.ErrInvalid, "sandbox %q is not a backend of service %s (its alias in network %s must be %[2]s; see: fairlead service inspect %[2]s)",
				sb.Name, svc.Name, t.Next.Network(svc.NetworkID).Name)
		}
		if svc.IsDrained(ep.ID) == drained {
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
