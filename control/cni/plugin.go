// SPDX-License-Identifier: Apache-2.0

// Package cni is Fairlead's face to container runtimes that speak the Container
// Network Interface. A [Plugin] turns each verb of a runtime into requests to the
// daemon: a container is a sandbox in the namespace the runtime made, a network of
// the configuration is a network of that name. It keeps no state of its own.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/model"
)

// LabelContainer is the label of a sandbox that a runtime attached; its value is
// the runtime's ID of the container.
const LabelContainer = "fairlead.cni.container"

// Daemon is what the plugin asks of the daemon; an [api.Client].
type Daemon interface {
	Status(ctx context.Context) (api.Status, error)
	Networks(ctx context.Context, f api.Filters) ([]api.Network, error)
	CreateNetwork(ctx context.Context, n api.NetworkCreate) (api.NetworkCreated, error)
	Sandboxes(ctx context.Context, f api.Filters) ([]api.SandboxSummary, error)
	Sandbox(ctx context.Context, ref string) (api.Sandbox, error)
	CreateSandbox(ctx context.Context, name string, s api.SandboxCreate) (api.SandboxCreated, error)
	CheckSandbox(ctx context.Context, ref string) error
	RemoveSandbox(ctx context.Context, ref string, force bool) error
	Connect(ctx context.Context, network string, n api.NetworkConnect) error
	Disconnect(ctx context.Context, network string, n api.NetworkDisconnect) error
}

// Attachment is what a runtime says of one interface of one container.
type Attachment struct {
	ContainerID string
	NetNS       string // path; may be "" in DEL
	IfName      string
	Args        string // CNI_ARGS, as in "IgnoreUnknown=1;K8S_POD_NAME=web"
}

// Plugin carries out the verbs. Every error is a [types.Error] with a code of the
// specification's.
type Plugin struct {
	// Dial makes the client of the daemon at a host, unix:///PATH. Required.
	Dial func(host string) (Daemon, error)
	// Stderr gets warnings. Required.
	Stderr io.Writer
}

// call is one verb in progress.
type call struct {
	Daemon
	*config
	Attachment
	stderr io.Writer
}

// begin reads the configuration and finds the daemon.
func (p *Plugin) begin(a Attachment, conf []byte, strict bool) (*call, error) {
	c, err := parseConfig(conf, strict)
	if err != nil {
		return nil, err
	}
	d, err := p.Dial(c.host())
	if err != nil {
		return nil, refuse(types.ErrInvalidNetworkConfig, "%v", err)
	}
	return &call{Daemon: d, config: c, Attachment: a, stderr: p.Stderr}, nil
}

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
		err = errors.Join(err, c.release(ctx))
	}
	return res, err
}

// attach makes the network, the sandbox and the interface.
func (c *call) attach(ctx context.Context, lease *current.Result) (*current.Result, error) {
	n, err := c.network(ctx, lease)
	if err != nil {
		return nil, err
	}
	spec, err := c.sandboxSpec(lease)
	if err != nil {
		return nil, err
	}
	sb, err := c.enter(ctx, spec)
	if errors.Is(err, model.ErrConflict) && c.sweep(ctx) {
		sb, err = c.enter(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	return c.result(n, sb)
}

// enter makes the container's sandbox, or joins the network to the one it has.
func (c *call) enter(ctx context.Context, spec model.SandboxSpec) (api.Sandbox, error) {
	created, err := c.CreateSandbox(ctx, spec.Name, api.NewSandboxCreate(spec))
	if errors.Is(err, model.ErrConflict) {
		return c.join(ctx, spec, err)
	}
	for _, w := range created.Warnings {
		fmt.Fprintln(c.stderr, w)
	}
	return created.Sandbox, err
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
func (c *call) join(ctx context.Context, spec model.SandboxSpec, refused error) (api.Sandbox, error) {
	sb, err := c.Sandbox(ctx, spec.Name)
	switch {
	case errors.Is(err, model.ErrNotFound):
		return sb, refused
	case err != nil:
		return sb, err
	case sb.Config.Labels[LabelContainer] != c.ContainerID:
		return sb, refused // somebody else's
	case gone(sb.NetworkSettings.SandboxKey):
		// Of before a restart of the host, say: the runtime begins anew.
		if err := c.remove(ctx, sb.ID); err != nil {
			return sb, err
		}
		created, err := c.CreateSandbox(ctx, spec.Name, api.NewSandboxCreate(spec))
		return created.Sandbox, err
	case sb.NetworkSettings.SandboxKey != spec.NetNS:
		return sb, refuse(types.ErrInvalidEnvironmentVariables, "container %s is attached in network namespace %s, not %s (DEL it first)",
			c.ContainerID, sb.NetworkSettings.SandboxKey, spec.NetNS)
	}
	if err := c.samePorts(sb); err != nil {
		return sb, err
	}
	err = c.Connect(ctx, c.Name, api.NetworkConnect{Container: sb.ID, EndpointConfig: api.NewEndpointConfig(spec.Endpoint)})
	if err != nil {
		return sb, err
	}
	return c.Sandbox(ctx, sb.ID)
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

// Del takes a container out of the network. What is not there is no error.
func (p *Plugin) Del(ctx context.Context, a Attachment, conf []byte) error {
	c, err := p.begin(a, conf, false)
	if err != nil {
		return err
	}
	err = c.detach(ctx, sandboxName(a.ContainerID), func(sb api.Sandbox, ifName string) bool {
		return sb.Config.Labels[LabelContainer] == a.ContainerID && ifName == a.IfName
	})
	if err == nil && c.delegates() {
		err = c.release(ctx)
	}
	return coded(err)
}

// detach takes a sandbox that a runtime attached out of the network, if the
// predicate takes its interface there. The sandbox goes with its last interface,
// or with its namespace.
func (c *call) detach(ctx context.Context, ref string, which func(sb api.Sandbox, ifName string) bool) error {
	sb, err := c.Sandbox(ctx, ref)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	ep, member := sb.NetworkSettings.Networks[c.Name]
	if !member || !which(sb, ep.InterfaceName) {
		return nil
	}
	if len(sb.NetworkSettings.Networks) == 1 || gone(sb.NetworkSettings.SandboxKey) {
		return c.remove(ctx, sb.ID)
	}
	err = c.Disconnect(ctx, c.Name, api.NetworkDisconnect{Container: sb.ID, Force: true})
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}

// remove removes a sandbox; none is success.
func (c *call) remove(ctx context.Context, id string) error {
	err := c.RemoveSandbox(ctx, id, true)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	return err
}

// Check wants a container to be attached as ADD left it. What the daemon can
// repair is repaired, not an error.
func (p *Plugin) Check(ctx context.Context, a Attachment, conf []byte) error {
	c, err := p.begin(a, conf, true)
	if err != nil {
		return err
	}
	prev, err := c.previous()
	if err != nil {
		return err
	}
	return coded(c.check(ctx, prev))
}

func (c *call) check(ctx context.Context, prev *current.Result) error {
	sb, err := c.Sandbox(ctx, sandboxName(c.ContainerID))
	ep, member := sb.NetworkSettings.Networks[c.Name]
	switch {
	case err != nil && !errors.Is(err, model.ErrNotFound):
		return err
	case err != nil || !member || sb.Config.Labels[LabelContainer] != c.ContainerID || ep.InterfaceName != c.IfName:
		return refuse(types.ErrUnknownContainer, "container %s has no interface %s in network %s", c.ContainerID, c.IfName, c.Name)
	case sb.NetworkSettings.SandboxKey != c.NetNS:
		return refuse(types.ErrInvalidEnvironmentVariables, "container %s is attached in network namespace %s, not %s", c.ContainerID, sb.NetworkSettings.SandboxKey, c.NetNS)
	}
	if err := sameAddresses(prev, ep, c.IfName); err != nil {
		return err
	}
	if err := c.CheckSandbox(ctx, sb.ID); err != nil {
		return err
	}
	if c.delegates() {
		return c.checkLease(ctx)
	}
	return nil
}

// Status reports whether ADD could be served.
func (p *Plugin) Status(ctx context.Context, conf []byte) error {
	c, err := p.begin(Attachment{}, conf, true)
	if err != nil {
		return err
	}
	if _, err = c.Daemon.Status(ctx); err != nil {
		return notAvailable(err)
	}
	if c.delegates() {
		return coded(c.leaseStatus(ctx))
	}
	return nil
}

// GC removes every attachment to the network that is not among the valid ones. It
// goes on after an error.
func (p *Plugin) GC(ctx context.Context, conf []byte) error {
	c, err := p.begin(Attachment{}, conf, false)
	if err != nil {
		return err
	}
	if !c.namesValid {
		return refuse(types.ErrInvalidNetworkConfig, "GC without %q in the configuration would remove everything", keyValid)
	}
	err = c.gc(ctx)
	if c.delegates() {
		err = errors.Join(err, c.leaseGC(ctx))
	}
	return coded(err)
}

func (c *call) gc(ctx context.Context) error {
	valid := map[types.GCAttachment]bool{}
	for _, a := range c.ValidAttachments {
		valid[a] = true
	}
	list, err := c.Sandboxes(ctx, api.Filters{"network": {c.Name}, "label": {LabelContainer}})
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range list {
		errs = append(errs, c.detach(ctx, sb.ID, func(sb api.Sandbox, ifName string) bool {
			return !valid[types.GCAttachment{ContainerID: sb.Config.Labels[LabelContainer], IfName: ifName}]
		}))
	}
	return errors.Join(errs...)
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

// gone reports whether there is no namespace at the path: none was given, or one
// was unmounted, which may leave a file. One that cannot be looked at is there.
func gone(path string) bool {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case path == "", errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return true
	default:
		return err == nil && st.Type != unix.NSFS_MAGIC
	}
}
