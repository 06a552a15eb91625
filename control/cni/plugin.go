// SPDX-License-Identifier: Apache-2.0

// Package cni is Fairlead's face to container runtimes that speak the Container
// Network Interface. A [Plugin] turns each verb of a runtime into requests to the
// daemon: a container is a sandbox in the namespace the runtime made, a network of
// the configuration is a network of that name. It keeps no state of its own.
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

// LabelContainer is the label of a sandbox that a runtime attached; its value is
// the runtime's ID of the container.
const LabelContainer = "fairlead.cni.container"

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
	Dial func(host string) (attach.Daemon, error)
	// Stderr gets warnings. Required.
	Stderr io.Writer
}

// call is one verb in progress.
type call struct {
	attach.Daemon
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
	d, err := p.Dial(cmp.Or(c.Host, api.DefaultHost))
	if err != nil {
		return nil, refuse(types.ErrInvalidNetworkConfig, "%v", err)
	}
	return &call{Daemon: d, config: c, Attachment: a, stderr: p.Stderr}, nil
}

// container is the runtime's, as the daemon has it.
func (c *call) container() *attach.Container {
	return &attach.Container{
		Daemon: c.Daemon, Label: LabelContainer, ID: c.ContainerID, Names: []string{sandboxName(c.ContainerID)},
		Defaults: map[string]string{model.OptDNS: "true"},
		Warn:     func(s string) { fmt.Fprintln(c.stderr, s) },
	}
}

// Del takes a container out of the network. What is not there is no error.
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
	if err := sameInterface(prev, ep, c.IfName); err != nil {
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

// statusPatience is how long STATUS waits for the daemon: runtimes ask every few seconds.
const statusPatience = 3 * time.Second

// Status reports whether ADD could be served.
func (p *Plugin) Status(ctx context.Context, conf []byte) error {
	c, err := p.begin(Attachment{}, conf, true)
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	_, err = c.Daemon.Status(soon)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the daemon at %s does not answer within %s (see its log)", cmp.Or(c.Host, api.DefaultHost), statusPatience)
	}
	if err != nil {
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
	if !c.delegates() {
		return coded(c.gc(ctx, nil))
	}
	ipam, err := c.findIPAM(ctx)
	if err != nil {
		return coded(err)
	}
	return coded(both(c.gc(ctx, ipam), ipam.gc(ctx)))
}

// gc removes them; ipam is nil if no plugin manages the addresses.
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

// collect takes a sandbox out of the network unless the runtime knows of it. Its
// addresses are given back before: if that fails, the next GC finds it yet.
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
