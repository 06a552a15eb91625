// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"maps"
	"regexp"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// Add attaches a container to the network, which is created if it does not exist.
func (p *Plugin) Add(ctx context.Context, a Attachment, conf []byte) (types.Result, error) {
	c, err := p.begin(a, conf, true)
	if err != nil {
		return nil, err
	}
	res, err := c.add(ctx)
	if err != nil {
		return nil, coded(err)
	}
	out, err := res.GetAsVersion(c.CNIVersion)
	if err != nil {
		return nil, refuse(types.ErrIncompatibleCNIVersion, "%v", err)
	}
	return out, nil
}

func (c *call) add(ctx context.Context) (*current.Result, error) {
	if c.RawPrevResult != nil {
		return nil, refuse(types.ErrInvalidNetworkConfig, "%s creates the interface, so it must be the first plugin of network %s", c.Type, c.Name)
	}
	if attach.NetNSGone(c.NetNS) {
		return nil, refuse(types.ErrInvalidEnvironmentVariables, "CNI_NETNS: no network namespace at %s", c.NetNS)
	}
	lease, err := c.lease(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.attach(ctx, lease)
	if err != nil && c.delegates() {
		err = both(err, c.release(ctx))
	}
	return res, err
}

// attach creates the sandbox and the interface, and the network if it does not exist.
func (c *call) attach(ctx context.Context, lease *current.Result) (*current.Result, error) {
	want, err := c.networkCreate(lease)
	if err != nil {
		return nil, err
	}
	spec, err := c.sandboxSpec(lease)
	if err != nil {
		return nil, err
	}
	n, sb, err := c.container().Attach(ctx, want, spec)
	if err != nil {
		return nil, err
	}
	return c.result(n, sb)
}

// longID matches an ID of which users see, and type, the beginning.
var longID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// shortID returns how users refer to a container that has no name.
func shortID(containerID string) string {
	if longID.MatchString(containerID) {
		return model.ShortID(containerID)
	}
	return containerID
}

// sandboxName returns the name of a container's sandbox.
func sandboxName(containerID string) string { return "cni-" + shortID(containerID) }

// sandboxSpec returns the specification of the container's sandbox with its first network.
func (c *call) sandboxSpec(lease *current.Result) (model.SandboxSpec, error) {
	spec := model.SandboxSpec{
		NetNS: c.NetNS, NetworkMode: c.Name,
		Labels: map[string]string{LabelContainer: c.ContainerID},
	}
	args, err := parseArgs(c.Args)
	if err != nil {
		return spec, err
	}
	maps.Copy(spec.Labels, args.labels())
	if spec.Ports, err = c.RuntimeConfig.ports(); err != nil {
		return spec, err
	}
	spec.Endpoint, err = c.endpointSpec(args, lease)
	return spec, err
}
