// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// Add joins a container to the network, which is made if it is not there.
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
		return nil, refuse(types.ErrInvalidNetworkConfig, "%s makes the interface: it must be the first plugin of network %s", c.Type, c.Name)
	}
	if gone(c.NetNS) {
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

// attach makes the sandbox and the interface, and the network if it is not there.
func (c *call) attach(ctx context.Context, lease *current.Result) (*current.Result, error) {
	want, err := c.networkCreate(lease)
	if err != nil {
		return nil, err
	}
	spec, err := c.sandboxSpec(lease)
	if err != nil {
		return nil, err
	}
	n, sb, err := c.enter(ctx, spec)
	if errors.Is(err, model.ErrNotFound) {
		n, sb, err = c.enterNew(ctx, want, spec)
	}
	if errors.Is(err, model.ErrConflict) && c.sweep(ctx) {
		n, sb, err = c.enter(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	if err := differs(n, want); err != nil {
		return nil, both(err, c.leave(ctx, sb))
	}
	return c.result(n, sb)
}

// enterNew makes the network first. Another ADD may do the same.
func (c *call) enterNew(ctx context.Context, want api.NetworkCreate, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	_, refused := c.CreateNetwork(ctx, want)
	if refused != nil && !errors.Is(refused, model.ErrConflict) {
		return nil, api.Sandbox{}, refused
	}
	n, sb, err := c.enter(ctx, spec)
	if refused != nil && errors.Is(err, model.ErrNotFound) {
		err = refused
	}
	return n, sb, err
}

// enter makes the container's sandbox, or joins the network to the one it has.
func (c *call) enter(ctx context.Context, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	n, sb, err := c.create(ctx, spec)
	if errors.Is(err, model.ErrConflict) {
		return c.join(ctx, spec, err)
	}
	return n, sb, err
}

// create makes the container's sandbox. To ask first whether there is such a
// network would be a step more for every container.
func (c *call) create(ctx context.Context, spec model.SandboxSpec) (*api.Network, api.Sandbox, error) {
	created, err := c.CreateSandbox(ctx, spec.Name, api.NewSandboxCreate(spec))
	if err != nil {
		return nil, created.Sandbox, err
	}
	if n := created.Network; n == nil || n.Name != c.Name {
		// The name was taken for the beginning of another one's ID.
		return nil, created.Sandbox, cmp.Or(c.remove(ctx, created.ID), c.noNetwork())
	}
	for _, w := range created.Warnings {
		fmt.Fprintln(c.stderr, w)
	}
	return created.Network, created.Sandbox, nil
}

// sweep removes what runtimes left behind: sandboxes whose namespace neither this
// process nor the daemon finds. They may have the port or address that is wanted.
// It reports whether there were any.
func (c *call) sweep(ctx context.Context) (swept bool) {
	list, err := c.Sandboxes(ctx, api.Filters{"label": {LabelContainer}})
	if err != nil {
		return false // the refusal that led here is the news
	}
	for _, s := range list {
		sb, err := c.Sandbox(ctx, s.ID)
		if err == nil && gone(sb.NetworkSettings.SandboxKey) && c.CheckSandbox(ctx, s.ID) != nil {
			swept = c.remove(ctx, s.ID) == nil || swept
		}
	}
	return swept
}

// join joins one more network to a container's sandbox. refused is why the
// sandbox could not be made: if it is not because there is one, it stands.
func (c *call) join(ctx context.Context, spec model.SandboxSpec, refused error) (*api.Network, api.Sandbox, error) {
	sb, err := c.Sandbox(ctx, spec.Name)
	switch {
	case errors.Is(err, model.ErrNotFound):
		return nil, sb, refused
	case err != nil:
		return nil, sb, err
	case sb.Config.Labels[LabelContainer] != c.ContainerID:
		return nil, sb, refused // somebody else's
	case gone(sb.NetworkSettings.SandboxKey):
		// Of before a restart of the host, say: the runtime begins anew.
		if err := c.remove(ctx, sb.ID); err != nil {
			return nil, sb, err
		}
		return c.create(ctx, spec)
	case sb.NetworkSettings.SandboxKey != spec.NetNS:
		return nil, sb, refuse(types.ErrInvalidEnvironmentVariables, "container %s is attached in network namespace %s, not %s (DEL it first)",
			c.ContainerID, sb.NetworkSettings.SandboxKey, spec.NetNS)
	}
	if err := c.samePorts(sb); err != nil {
		return nil, sb, err
	}
	n, err := c.findNetwork(ctx)
	if err != nil {
		return nil, sb, err
	}
	err = c.Connect(ctx, n.ID, api.NetworkConnect{Container: sb.ID, EndpointConfig: api.NewEndpointConfig(spec.Endpoint)})
	if err == nil {
		sb, err = c.Sandbox(ctx, sb.ID)
	}
	return n, sb, err
}

// samePorts wants the published ports to be those the sandbox has: they are the
// container's, not an interface's.
func (c *call) samePorts(sb api.Sandbox) error {
	for key, want := range c.RuntimeConfig.portBindings() {
		for _, b := range want {
			if !hasBinding(sb.HostConfig.PortBindings[key], b) {
				return refuse(errConflict, "port %s of container %s cannot be published now: give portMappings to its first network", key, c.ContainerID)
			}
		}
	}
	return nil
}

// longID is an ID that people see, and type, the beginning of.
var longID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sandboxName is the name of a container's sandbox.
func sandboxName(containerID string) string {
	if longID.MatchString(containerID) {
		containerID = containerID[:12]
	}
	return "cni-" + containerID
}

// sandboxSpec asks for the container's sandbox with its first network.
func (c *call) sandboxSpec(lease *current.Result) (model.SandboxSpec, error) {
	spec := model.SandboxSpec{
		Name: sandboxName(c.ContainerID), NetNS: c.NetNS, NetworkMode: c.Name,
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
