// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"

	"github.com/fairlead-net/fairlead/control/controller/naming"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// RenameSandbox gives a sandbox another name. Links to it follow, and keep their aliases.
func (c *Controller) RenameSandbox(ctx context.Context, ref, name string) error {
	if err := naming.Validate(name); err != nil {
		return err
	}
	var was *model.Sandbox
	err := c.state.Update(ctx, func(t *txn.Tx) (err error) {
		if was, err = t.Next.FindSandbox(ref); err != nil {
			return err
		}
		switch {
		case was.ManagedBy == model.ByEngine:
			return model.RefuseEngineManaged("sandbox "+was.Name, fmt.Sprintf("%s rename %s %s", was.ManagedBy.CLI(), was.Name, name))
		case was.ManagedBy == model.ByRuntime:
			return model.Refuse(model.ErrForbidden, "sandbox %s is managed by a container runtime, which knows it by its name (rename the container there)", was.Name)
		case was.Name == name:
			return model.Refuse(model.ErrInvalid, "sandbox %s has that name already (choose another)", name)
		}
		if err := naming.CheckFree(t, name, was.ID); err != nil {
			return err
		}
		if err := naming.CheckRouters(t, was, name); err != nil {
			return err
		}
		now := *was
		now.Name = name
		t.PutSandbox(was.ID, &now)
		naming.RenameLinks(t, was, name)
		return nil
	})
	if err == nil {
		c.state.Log().Info("renamed sandbox", "sandbox", name, "id", model.ShortID(was.ID), "was", was.Name)
	}
	return err
}
