// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
)

// Network finds a network by full ID, by name, or by a unique prefix of its ID, in
// this order.
func (c *Controller) Network(ref string) (*model.Network, error) {
	return c.Snapshot().FindNetwork(ref)
}

// Sandbox finds a sandbox as Network finds a network. An engine-managed sandbox is also
// found by the engine's ID of the container.
func (c *Controller) Sandbox(ref string) (*model.Sandbox, error) {
	return c.Snapshot().FindSandbox(ref)
}

// endpointsOf lists a sandbox's endpoints in the order of attachment.
func endpointsOf(s *desired.Snapshot, sandboxID string) []*model.Endpoint {
	return slices.Collect(s.EndpointsOf(sandboxID))
}
