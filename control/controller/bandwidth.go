// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// SetBandwidth changes the limits of a sandbox in a network, while it is running. No network means the only one that the
// sandbox is connected to; nil means that a limit stays as it is.
func (c *Controller) SetBandwidth(ctx context.Context, ref, netRef string, ingress, egress *model.Limit) error {
	var sb *model.Sandbox
	var n *model.Network
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if sb, err = t.Next.FindSandbox(ref); err != nil {
			return err
		}
		was, err := t.Next.FindConnection(sb, netRef)
		if err != nil {
			return err
		}
		n = t.Next.Network(was.NetworkID)
		ep := *was
		if ingress != nil {
			ep.Bandwidth.Ingress = *ingress
		}
		if egress != nil {
			ep.Bandwidth.Egress = *egress
		}
		if sb.ManagedBy == model.ByEngine && !ep.Bandwidth.Egress.IsZero() {
			return model.Refuse(model.ErrNotSupported, "Fairlead limits only what containers of an engine receive (leave out the limit of what %s sends)", sb.Name)
		}
		if err := n.CheckBandwidth(ep.Bandwidth); err != nil {
			return err
		}
		t.PutEndpoint(ep.ID, &ep)
		return nil
	})
	if err == nil {
		c.state.Log().Info("changed bandwidth limits", "sandbox", sb.Name, "network", n.Name)
	}
	return err
}
