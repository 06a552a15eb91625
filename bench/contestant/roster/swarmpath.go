// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
)

// The rules that an engine in a swarm installs, on a host and in a container there. TestEnginesRules captures them.
var (
	//go:embed rules/swarm29.iptables
	swarmRules string
	//go:embed rules/swarm29container.iptables
	swarmContainerRules string
)

// swarmPath is what packets pass in the network of a swarm, without engines: on each host a bridge in a network
// namespace of its own, with a VXLAN device that sends from the host's namespace, and the rules. Bridged packets pass
// netfilter in that namespace, which has no rules.
type swarmPath struct{}

func (swarmPath) Name() string { return "swarm" }
func (swarmPath) Version(context.Context) (string, error) {
	return "bridges, VXLAN devices and the rules of Docker Engine 29 in a swarm (iptables, br_netfilter)", nil
}
func (swarmPath) Lacks(c cases.Case) string { return swarm{}.Lacks(c) }

func (swarmPath) Build(ctx context.Context, t *topology.Topology, _ cases.Path) (_ contestant.Network, retErr error) {
	n := &swarmPathNetwork{t: t}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, n.Close())
		}
	}()
	for i, machine := range []*world.Host{t.Host, t.Outside} {
		segment, err := world.New(fmt.Sprintf("segment%d", i))
		if err != nil {
			return nil, err
		}
		n.segments[i] = segment
		if err := machine.IP("link add vxlan0 type vxlan id 4097 dstport 4789 proxy l2miss l3miss", "link set vxlan0 netns "+segment.NetNS()); err != nil {
			return nil, err
		}
		err = segment.IP(
			"link add br0 type bridge", "addr add 10.99.0.1/24 dev br0",
			fmt.Sprintf("link set vxlan0 master br0 mtu %d up", overlayMTU), fmt.Sprintf("link set br0 mtu %d up", overlayMTU),
		)
		if err != nil {
			return nil, err
		}
		if err := n.apply(ctx, machine, swarmRules); err != nil {
			return nil, err
		}
	}
	return n, nil
}

type swarmPathNetwork struct {
	t          *topology.Topology
	segments   [2]*world.Host // the bridges' namespaces, of the host and of the outside machine
	containers []*world.Host
}

func (n *swarmPathNetwork) Container(ctx context.Context, name string, _ int, args ...string) (contestant.Container, error) {
	c, err := n.attach(ctx, name, 0)
	if err != nil || len(args) == 0 {
		return c, err
	}
	return c, c.Start(args...)
}

func (n *swarmPathNetwork) Far(ctx context.Context, name string) (contestant.Container, error) {
	return n.attach(ctx, name, 1)
}

// attach makes a container on the host (0) or the outside machine (1). The bridge of the other one gets the entries that
// engines make for it.
func (n *swarmPathNetwork) attach(ctx context.Context, name string, on int) (*bridgeContainer, error) {
	h, err := world.New(name)
	if err != nil {
		return nil, err
	}
	n.containers = append(n.containers, h)
	c := &bridgeContainer{n.t.On(h), h, len(n.containers) + 1}
	here, there := n.segments[on], n.segments[1-on]
	err = world.Cable(
		world.End{Host: here, Device: c.port()},
		world.End{Host: h, Device: "eth0", Addresses: []string{c.Address(4).String() + "/24"}},
	)
	if err != nil {
		return nil, err
	}
	mac := fmt.Sprintf("02:42:0a:63:00:%02x", c.number)
	if err := here.IP(fmt.Sprintf("link set %s master br0 mtu %d", c.port(), overlayMTU)); err != nil {
		return nil, err
	}
	if err := h.IP(fmt.Sprintf("link set eth0 mtu %d address %s", overlayMTU, mac)); err != nil {
		return nil, err
	}
	machine := topology.HostAddress(4)
	if on == 1 {
		machine = topology.OutsideAddress(4)
	}
	if err := there.IP(fmt.Sprintf("neigh add %s dev vxlan0 lladdr %s nud permanent", c.Address(4), mac)); err != nil {
		return nil, err
	}
	_, err = n.t.On(there).Run(ctx, "bridge", "fdb", "add", mac, "dev", "vxlan0", "self", "permanent", "dst", machine.String())
	if err != nil {
		return nil, err
	}
	return c, n.apply(ctx, h, swarmContainerRules)
}

// apply loads rules on a host.
func (n *swarmPathNetwork) apply(ctx context.Context, h *world.Host, rules string) error {
	file := filepath.Join(n.t.Dir, "rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	_, err := n.t.On(h).Run(ctx, "iptables-restore", file)
	return err
}

// Published is not used: the path overlay publishes nothing.
func (n *swarmPathNetwork) Published(path cases.Path, _ contestant.Container, family int) netip.Addr {
	return onHost(path, family)
}

// Close stops the containers and removes the bridges.
func (n *swarmPathNetwork) Close() error {
	for _, h := range append(n.containers, n.segments[:]...) {
		if h != nil {
			h.Close()
		}
	}
	return nil
}
