// SPDX-License-Identifier: Apache-2.0

// Package netavark is Fairlead's front end for podman 5: a netavark plugin, that is, a network
// driver. A [Plugin] translates each verb to requests to the daemon: a container is a sandbox in
// the namespace that podman created, and podman's network is the network of that name. It keeps
// no state of its own; podman keeps the network's configuration, which Create completed, and
// allocates addresses.
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
	"github.com/fairlead-net/fairlead/control/api/client"
	"github.com/fairlead-net/fairlead/control/attach"
	"github.com/fairlead-net/fairlead/control/model"
)

// LabelContainer is the label of a sandbox that podman attached. Its value is podman's container
// ID.
const LabelContainer = "fairlead.netavark.container"

// Plugin implements the verbs.
type Plugin struct {
	// Dial returns a client of the daemon at a host, unix:///PATH. Required.
	Dial func(host string) (attach.Daemon, error)
	// Stderr receives warnings. Required.
	Stderr io.Writer
}

// Create creates a network, and returns its configuration, completed by what the daemon
// allocated.
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
	have, err := createOrFind(ctx, d, n, want)
	if err != nil {
		return nil, err
	}
	return n.completed(have)
}

// createOrFind creates the network, or finds it if it exists.
func createOrFind(ctx context.Context, d attach.Daemon, n *network, want api.NetworkCreate) (*api.Network, error) {
	var err error
	if want.Driver != model.DriverOverlay {
		_, err = d.CreateNetwork(ctx, want)
	}
	if errors.Is(err, model.ErrConflict) && removeForgotten(ctx, d, n) {
		_, err = d.CreateNetwork(ctx, want)
	}
	if err != nil && !errors.Is(err, model.ErrConflict) {
		return nil, err
	}
	have, missing := attach.FindNetwork(ctx, d, n.Name)
	if errors.Is(missing, model.ErrNotFound) && want.Driver == model.DriverOverlay {
		missing = attach.NoSharedNetwork(n.Name)
	}
	if missing != nil {
		return nil, cmp.Or(err, missing) // the conflict was not about the name
	}
	if _, asked := n.Options[model.OptDNS]; !asked {
		delete(want.Options, model.OptDNS) // podman sets it for every network
	}
	return have, attach.CheckMatches(have, want)
}

// removeForgotten removes the network of this name if podman created and has since removed it:
// podman does not notify plugins of a removal, and has a new network of that name now.
func removeForgotten(ctx context.Context, d attach.Daemon, n *network) bool {
	have, err := attach.FindNetwork(ctx, d, n.Name)
	if err != nil {
		return false
	}
	id, podmans := have.Labels[labelNetwork]
	return podmans && id != n.ID && d.RemoveNetwork(ctx, have.ID) == nil
}

// Setup attaches a container to the network and returns the status that podman keeps.
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
	if errors.Is(err, client.ErrUnreachable) {
		// The daemon may have completed the request. If it stays unreachable, podman's teardown
		// reports that.
		_ = c.Detach(ctx, a.Network.Name, a.Options.InterfaceName)
	}
	if err != nil {
		return nil, reservedByPodman(err)
	}
	return status(n, sb, a.Options.InterfaceName)
}

// reservedByPodman adds the remedy to the error about a port that podman itself has bound, which
// is its default.
func reservedByPodman(err error) error {
	if !strings.Contains(err.Error(), "failed to bind host port") {
		return err
	}
	return fmt.Errorf("%w; if podman itself has bound it, set enable_port_reservation = false in [engine] of containers.conf", err)
}

// Teardown detaches a container from the network. If it is not attached, that is not an error.
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

// container returns podman's container in the daemon's terms: under its name in podman, unless
// that name is taken.
func (p *Plugin) container(a *attachment) (*attach.Container, error) {
	d, err := p.dial(&a.Network)
	name := a.ContainerName
	if len(name) == 1 {
		name = "podman-" + name // the daemon requires two characters
	}
	return &attach.Container{
		Daemon: d, Label: LabelContainer, ID: a.ContainerID,
		Names: []string{name, name + "-" + model.ShortID(a.ContainerID)},
		Warn:  func(s string) { fmt.Fprintln(p.Stderr, s) },
	}, err
}

// Failure encodes an error as netavark expects it.
func Failure(err error) []byte {
	b, _ := json.Marshal(struct { // a string can always be encoded
		Error string `json:"error"`
	}{flagNames.Replace(err.Error())})
	return append(b, '\n')
}

// flagNames removes line breaks from an error and replaces the flag for the daemon's socket by podman's
// option. Podman has the other flags in errors, too.
var flagNames = strings.NewReplacer("\n", "; ", "--host", "the network's option "+optHost)

func refuse(format string, args ...any) error {
	return model.Refuse(model.ErrInvalid, format, args...)
}
