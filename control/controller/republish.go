// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// PublishPorts publishes further ports of a sandbox: all of them, or none.
func (c *Controller) PublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error {
	if err := resource.ValidatePorts(specs); err != nil {
		return err
	}
	return c.changePorts(ctx, ref, "published ports", func(t *txn.Tx, sb *model.Sandbox) error {
		gws := chooseGateways(t, sb.ID)
		gw := gws.v4
		if gws.v6 != gw {
			gw = nil
		}
		ports, pubs, err := resource.ResolvePorts(t, specs, gw)
		if err != nil {
			return err
		}
		sb.Ports = append(slices.Clone(sb.Ports), ports...)
		switch {
		case gws.v4 != gws.v6: // each serves its family
			return updateGateway(t, sb, true)
		case gw != nil:
			t.Serve(sb.ID, append(slices.Clone(t.Served(sb.ID)), pubs...))
		}
		return nil
	})
}

// UnpublishPorts ends the publishing of ports of a sandbox: of all of them, or of none. A spec without host port,
// address or prefixes of clients means those of every one.
func (c *Controller) UnpublishPorts(ctx context.Context, ref string, specs []model.PortSpec) error {
	return c.changePorts(ctx, ref, "removed published ports", func(t *txn.Tx, sb *model.Sandbox) error {
		// Consecutive ports that were published together are one range.
		left, missing := withoutPorts(sb.Ports, specs)
		if missing != nil {
			if left, missing = withoutPorts(sb.Ports, resource.JoinRuns(specs)); missing != nil {
				return model.Refuse(model.ErrNotFound, "sandbox %q does not publish %s (see: fairlead port %s; ports that were published as a range are removed as one)", sb.Name, specText(*missing), sb.Name)
			}
		}
		sb.Ports = left
		t.PutSandbox(sb.ID, sb)
		return updateGateway(t, sb, false)
	})
}

// changePorts runs change on a copy of a sandbox, and stores that.
func (c *Controller) changePorts(ctx context.Context, ref, did string, change func(*txn.Tx, *model.Sandbox) error) error {
	var sb *model.Sandbox
	err := c.state.Update(ctx, func(t *txn.Tx) error {
		was, err := t.Next.FindSandbox(ref)
		if err != nil {
			return err
		}
		if err := mayPublish(was); err != nil {
			return err
		}
		changed := *was
		sb = &changed
		if err := change(t, sb); err != nil {
			return err
		}
		t.PutSandbox(sb.ID, sb)
		return nil
	})
	if err == nil {
		c.state.Log().Info(did, "sandbox", sb.Name, "id", model.ShortID(sb.ID))
	}
	return err
}

func mayPublish(sb *model.Sandbox) error {
	switch {
	case sb.ManagedBy == model.ByEngine:
		return model.RefuseEngineManaged("sandbox "+sb.Name, sb.ManagedBy.CLI()+" run -p")
	case sb.ManagedBy == model.ByRuntime:
		return model.Refuse(model.ErrForbidden, "the ports of sandbox %q are chosen by its container runtime (recreate the container with others)", sb.Name)
	case sb.SharesNetNS():
		return model.Refuse(model.ErrInvalid, "conflicting options: port publishing and the container type network mode (publish the ports of the sandbox that is joined)")
	case sb.NetworkMode == model.NetworkHost || sb.NetworkMode == model.NetworkNone:
		return model.Refuse(model.ErrInvalid, "sandbox %q has network mode %s and cannot publish ports (recreate it with --network NETWORK)", sb.Name, sb.NetworkMode)
	}
	return nil
}

// withoutPorts returns the bindings that none of the specs names, and a spec that names none.
func withoutPorts(ports []model.PortBinding, specs []model.PortSpec) (left []model.PortBinding, missing *model.PortSpec) {
	left = slices.Clone(ports)
	for _, s := range specs {
		had := len(left)
		left = slices.DeleteFunc(left, func(b model.PortBinding) bool { return names(s, b) })
		if len(left) == had {
			return nil, &s
		}
	}
	return left, nil
}

func names(s model.PortSpec, b model.PortBinding) bool {
	return s.Port == b.Port && s.Count == b.Count && s.Proto == b.Proto &&
		(s.HostCount == 0 || s.HostPort == b.HostPort && s.HostCount == b.Count) &&
		(!s.HostIP.IsValid() || s.HostIP.Unmap() == b.HostIP) &&
		(s.From == "" || s.From == b.From)
}

func specText(s model.PortSpec) string {
	text := fmt.Sprintf("port %d/%s", s.Port, s.Proto)
	if s.Count > 1 {
		text = fmt.Sprintf("ports %d-%d/%s", s.Port, int(s.Port)+int(s.Count)-1, s.Proto)
	}
	if s.HostCount > 0 {
		text += fmt.Sprintf(" at host port %d", s.HostPort)
	}
	if s.From != "" {
		text += fmt.Sprintf(" for clients from %s", s.From)
	}
	return text
}
