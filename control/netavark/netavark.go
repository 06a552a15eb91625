// SPDX-License-Identifier: Apache-2.0

// Package netavark is Fairlead's face to podman 5: a plugin of netavark's, a driver
// of networks. A [Plugin] turns each verb into requests to the daemon: a container is
// a sandbox in the namespace podman made, a network of podman's is the network of that
// name. It keeps no state of its own; podman keeps the network's configuration, which
// Create completed, and chooses the addresses in it.
package netavark

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fairlead-net/fairlead/control/api"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// LabelContainer is the label of a sandbox that podman attached; its value is
// podman's ID of the container.
const LabelContainer = "fairlead.netavark.container"

// Plugin carries out the verbs.
type Plugin struct {
	// Dial makes the client of the daemon at a host, unix:///PATH. Required.
	Dial func(host string) (attach.Daemon, error)
	// Stderr gets warnings. Required.
	Stderr io.Writer
}

// Create makes a network, and returns its configuration with what was left to the
// daemon.
func (p *Plugin) Create(ctx context.Context, stdin []byte) ([]byte, error) {
	n, err := parseNetwork(stdin)
	if err != nil {
		return nil, err
	}
	want, err := n.create(false)
	if err != nil {
		return nil, err
	}
	d, err := p.dial(n)
	if err != nil {
		return nil, err
	}
	have, err := found(ctx, d, n, want)
	if err != nil {
		return nil, err
	}
	return n.completed(have)
}

// found makes the network, or finds it.
func found(ctx context.Context, d attach.Daemon, n *network, want api.NetworkCreate) (*api.Network, error) {
	_, err := d.CreateNetwork(ctx, want)
	if errors.Is(err, model.ErrConflict) && forgotten(ctx, d, n) {
		_, err = d.CreateNetwork(ctx, want)
	}
	if err != nil && !errors.Is(err, model.ErrConflict) {
		return nil, err
	}
	have, missing := attach.FindNetwork(ctx, d, n.Name)
	if missing != nil {
		return nil, cmp.Or(err, missing) // it was another conflict
	}
	if _, asked := n.Options[model.OptDNS]; !asked {
		delete(want.Options, model.OptDNS) // podman asks it of every network
	}
	return have, attach.CheckMatches(have, want)
}

// forgotten removes the network of this name if it was podman's and is not any more:
// podman tells no plugin of a removal, and it has a new one of that name now.
func forgotten(ctx context.Context, d attach.Daemon, n *network) bool {
	have, err := attach.FindNetwork(ctx, d, n.Name)
	if err != nil {
		return false
	}
	id, podmans := have.Labels[labelNetwork]
	return podmans && id != n.ID && d.RemoveNetwork(ctx, have.ID) == nil
}

// Setup joins a container to the network and returns the status that podman keeps.
func (p *Plugin) Setup(ctx context.Context, netns string, stdin []byte) ([]byte, error) {
	a, err := parseAttachment(stdin)
	if err != nil {
		return nil, err
	}
	if attach.NetNSGone(netns) {
		return nil, refuse("no network namespace at %q", netns)
	}
	want, err := a.Network.create(true)
	if err != nil {
		return nil, err
	}
	spec, err := a.sandboxSpec(netns)
	if err != nil {
		return nil, err
	}
	c, err := p.container(a)
	if err != nil {
		return nil, err
	}
	n, sb, err := c.Attach(ctx, want, spec)
	if errors.Is(err, api.ErrUnreachable) {
		// The daemon may have done it all; if it stays away, podman's teardown says so.
		_ = c.Detach(ctx, a.Network.Name, a.Options.InterfaceName)
	}
	if err != nil {
		return nil, reservedByPodman(err)
	}
	return status(n, sb, a.Options.InterfaceName)
}

// reservedByPodman adds the remedy to the refusal of a port that podman itself, as it
// does unless told otherwise, keeps from others.
func reservedByPodman(err error) error {
	if !strings.Contains(err.Error(), "failed to bind host port") {
		return err
	}
	return fmt.Errorf("%w; if podman itself has it, set enable_port_reservation = false in [engine] of containers.conf", err)
}

// Teardown takes a container out of the network. What is not there is no error.
func (p *Plugin) Teardown(ctx context.Context, stdin []byte) error {
	a, err := parseAttachment(stdin)
	if err != nil {
		return err
	}
	c, err := p.container(a)
	if err != nil {
		return err
	}
	return c.Detach(ctx, a.Network.Name, a.Options.InterfaceName)
}

func (p *Plugin) dial(n *network) (attach.Daemon, error) {
	return p.Dial(cmp.Or(n.Options[optHost], api.DefaultHost))
}

// container is podman's, as the daemon has it: under the name it has in podman, unless
// something else has that name already.
func (p *Plugin) container(a *attachment) (*attach.Container, error) {
	d, err := p.dial(&a.Network)
	name := a.ContainerName
	if len(name) == 1 {
		name = "podman-" + name // the daemon wants two characters
	}
	return &attach.Container{
		Daemon: d, Label: LabelContainer, ID: a.ContainerID,
		Names: []string{name, name + "-" + a.ContainerID[:min(12, len(a.ContainerID))]},
		Warn:  func(s string) { fmt.Fprintln(p.Stderr, s) },
	}, err
}

// Failure is an error as netavark reads it.
func Failure(err error) []byte {
	b, _ := json.Marshal(struct { // a string is always marshalled
		Error string `json:"error"`
	}{asHere.Replace(err.Error())})
	return append(b, '\n')
}

// asHere makes one line of an error that was joined, and says with what podman names the
// daemon's socket. Other flags in errors are podman's too.
var asHere = strings.NewReplacer("\n", "; ", "--host", "the network's option "+optHost)

func refuse(format string, args ...any) error {
	return &model.Refusal{Kind: model.ErrInvalid, Text: fmt.Sprintf(format, args...)}
}
