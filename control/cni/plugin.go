// SPDX-License-Identifier: Apache-2.0

// Package cni is Fairlead's front end for container runtimes that use the Container Network
// Interface. A [Plugin] translates each verb of a runtime to requests to the daemon: a container
// is a sandbox in the namespace that the runtime created, and a network of the configuration is a
// network of that name. It keeps no state of its own.
package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// LabelContainer is the label of a sandbox that a runtime attached. Its value is the container ID
// of the runtime.
const LabelContainer = "fairlead.cni.container"

// Attachment identifies one interface of one container.
type Attachment struct {
	ContainerID string
	NetNS       string // path; may be "" in DEL
	IfName      string
	Args        string // CNI_ARGS, as in "IgnoreUnknown=1;K8S_POD_NAME=web"
}

// Plugin implements the verbs. Every error is a [types.Error] with a code of the specification.
type Plugin struct {
	// Dial returns a client of the daemon at a host, unix:///PATH. Required.
	Dial func(host string) (attach.Daemon, error)
	// Stderr receives warnings. Required.
	Stderr io.Writer
}

// call is one verb in progress.
type call struct {
	attach.Daemon
	*config
	Attachment
	stderr io.Writer
}

// begin parses the configuration and dials the daemon.
func (p *Plugin) begin(a Attachment, conf []byte, strict bool) (*call, error) {
	c, err := parseConfig(conf, strict)
	if err != nil {
		return nil, err
	}
	d, err := p.Dial(cmp.Or(c.Host, api.DefaultHost))
	if err != nil {
		return nil, refuse(types.ErrInvalidNetworkConfig, "%v", err)
	}
	return &call{Daemon: d, config: c, Attachment: a, stderr: p.Stderr}, nil
}

// container returns the runtime's container in the daemon's terms.
func (c *call) container() *attach.Container {
	return &attach.Container{
		Daemon: c.Daemon, Label: LabelContainer, ID: c.ContainerID, Names: []string{sandboxName(c.ContainerID)},
		Defaults: map[string]string{model.OptDNS: "true"},
		Warn:     func(s string) { fmt.Fprintln(c.stderr, s) },
	}
}

// Del detaches a container from the network. If it is not attached, that is not an error.
func (p *Plugin) Del(ctx context.Context, a Attachment, conf []byte) error {
	c, err := p.begin(a, conf, false)
	if err != nil {
		return err
	}
	err = c.container().Detach(ctx, c.Name, c.IfName)
	if err == nil && c.delegates() {
		err = c.release(ctx)
	}
	return coded(err)
}

// Check checks that a container is attached as ADD left it. The daemon repairs what it can,
// without an error.
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
	if err := checkInterface(prev, ep, c.IfName); err != nil {
		return err
	}
	if err := c.CheckSandbox(ctx, sb.ID, api.Expected{EndpointID: ep.EndpointID, Gateways: defaultRoutes(prev, ep)}); err != nil {
		return err
	}
	if c.delegates() {
		return c.checkLease(ctx)
	}
	return nil
}

// statusTimeout is how long STATUS waits for the daemon, since runtimes call it every few
// seconds.
const statusTimeout = 3 * time.Second

// Status returns an error if ADD could not be served.
func (p *Plugin) Status(ctx context.Context, conf []byte) error {
	c, err := p.begin(Attachment{}, conf, true)
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err = c.Daemon.Status(soon)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the daemon at %s does not answer within %s (see its log)", cmp.Or(c.Host, api.DefaultHost), statusTimeout)
	}
	if err != nil {
		return notAvailable(err)
	}
	if c.delegates() {
		return coded(c.leaseStatus(ctx))
	}
	return nil
}

// GC removes every attachment to the network that is not in the list of valid ones. It continues
// after an error.
func (p *Plugin) GC(ctx context.Context, conf []byte) error {
	c, err := p.begin(Attachment{}, conf, false)
	if err != nil {
		return err
	}
	if !c.namesValid {
		return refuse(types.ErrInvalidNetworkConfig, "GC without %q in the configuration would remove everything", keyValid)
	}
	if !c.delegates() {
		return coded(c.gc(ctx, nil))
	}
	ipam, err := c.findIPAM(ctx)
	if err != nil {
		return coded(err)
	}
	return coded(both(c.gc(ctx, ipam), ipam.gc(ctx)))
}

// gc removes attachments. ipam is nil if no plugin manages the addresses.
func (c *call) gc(ctx context.Context, ipam *ipamPlugin) error {
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
		errs = append(errs, c.collect(ctx, sb.ID, valid, ipam))
	}
	return errors.Join(errs...)
}

// collect detaches a sandbox from the network unless its attachment is valid. It first releases
// the addresses, so that the next GC finds the sandbox again if that fails.
func (c *call) collect(ctx context.Context, id string, valid map[types.GCAttachment]bool, ipam *ipamPlugin) error {
	sb, err := c.Sandbox(ctx, id)
	if errors.Is(err, model.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	ep, member := sb.NetworkSettings.Networks[c.Name]
	a := types.GCAttachment{ContainerID: sb.Config.Labels[LabelContainer], IfName: ep.InterfaceName}
	if !member || valid[a] {
		return nil
	}
	if ipam != nil {
		if err := ipam.del(ctx, a, sb.NetworkSettings.SandboxKey); err != nil {
			return fmt.Errorf("container %s: %w", a.ContainerID, err)
		}
	}
	return c.container().DetachSandbox(ctx, sb, c.Name)
}
