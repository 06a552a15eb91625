// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/bench/world"
)

// bridge is a Linux bridge, a veth pair for each container, the host as router and no
// netfilter: it shows what Docker's network costs without its rules. It has no NAT, so the
// outside machine has a route to the containers. Across two hosts it is a bridge on each, with a VXLAN
// device of the kernel's as one more port.
type bridge struct{}

func (bridge) Name() string { return "bridge" }
func (bridge) Version(context.Context) (string, error) {
	return "Linux bridge, routed, no netfilter; VXLAN device across hosts", nil
}

func (bridge) Lacks(c cases.Case) string {
	if c.Path == cases.Localhost || c.Path == cases.Hairpin {
		return "a bridge without netfilter publishes nothing"
	}
	return unmanaged(c)
}

func (bridge) Build(_ context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	err := t.Host.IP("link add br0 type bridge", "addr add 10.99.0.1/24 dev br0", "addr add fd00:99::1/64 dev br0 nodad", "link set br0 up")
	if err != nil {
		return nil, err
	}
	if path == cases.Overlay {
		return &bridgeNetwork{t: t, mtu: overlayMTU}, errors.Join(noNetfilter(t.Host), noNetfilter(t.Outside), tunnel(t))
	}
	err = t.Outside.IP("route add 10.99.0.0/24 via 192.0.2.1", "route add fd00:99::/64 via 2001:db8:1::1")
	if err != nil {
		return nil, err
	}
	if err := t.Forward(); err != nil {
		return nil, err
	}
	return &bridgeNetwork{t: t, mtu: plainMTU}, noNetfilter(t.Host)
}

// MTUs of containers: a tunnelled packet has 50 bytes of outer headers over IPv4.
const (
	plainMTU   = 1500
	overlayMTU = 1450
)

// tunnel joins the host's bridge and one of the outside machine. VNI and port are Docker's.
func tunnel(t *topology.Topology) error {
	if err := t.Outside.IP("link add br0 type bridge", "link set br0 up"); err != nil {
		return err
	}
	here, there := topology.HostAddress(4), topology.OutsideAddress(4)
	for _, end := range []struct {
		host          *world.Host
		local, remote netip.Addr
	}{{t.Host, here, there}, {t.Outside, there, here}} {
		err := end.host.IP(
			fmt.Sprintf("link add vxlan0 type vxlan id 4097 local %s remote %s dstport 4789", end.local, end.remote),
			"link set vxlan0 master br0 up",
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// noNetfilter keeps bridged packets out of netfilter where the kernel could pass them to it.
func noNetfilter(h *world.Host) error {
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		err := h.Sysctl("bridge/bridge-nf-call-"+name, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep netfilter out of bridges: %w", err)
		}
	}
	return nil
}

type bridgeNetwork struct {
	t          *topology.Topology
	mtu        int
	containers []*bridgeContainer
}

type bridgeContainer struct {
	topology.Place
	host   *world.Host
	number int
}

func (n *bridgeNetwork) Container(_ context.Context, name string, _ int, args ...string) (contestant.Container, error) {
	return n.attach(n.t.Host, name, args...)
}

func (n *bridgeNetwork) Far(_ context.Context, name string) (contestant.Container, error) {
	return n.attach(n.t.Outside, name)
}

// attach makes a container at the bridge of a machine.
func (n *bridgeNetwork) attach(machine *world.Host, name string, args ...string) (contestant.Container, error) {
	h, err := world.New(name)
	if err != nil {
		return nil, err
	}
	c := &bridgeContainer{n.t.On(h), h, len(n.containers) + 2}
	n.containers = append(n.containers, c)
	err = world.Cable(
		world.End{Host: machine, Device: c.port()},
		world.End{Host: h, Device: "eth0", Addresses: []string{c.Address(4).String() + "/24", c.Address(6).String() + "/64"}},
	)
	if err != nil {
		return nil, err
	}
	if err := machine.IP(fmt.Sprintf("link set %s master br0 mtu %d", c.port(), n.mtu)); err != nil {
		return nil, err
	}
	if err := h.IP(fmt.Sprintf("link set eth0 mtu %d", n.mtu)); err != nil {
		return nil, err
	}
	if err := h.IP("route add default via 10.99.0.1", "route add ::/0 via fd00:99::1"); err != nil {
		return nil, err
	}
	if len(args) > 0 {
		return c, c.Start(args...)
	}
	return c, nil
}

// Published returns the container's own address: it is routed, not translated.
func (*bridgeNetwork) Published(_ cases.Path, server contestant.Container, family int) netip.Addr {
	return server.Address(family)
}

// Close stops the containers; the bridge is removed with the world.
func (n *bridgeNetwork) Close() error {
	for _, c := range n.containers {
		c.host.Close()
	}
	return nil
}

// port returns the host's end of the container's veth pair.
func (c *bridgeContainer) port() string { return fmt.Sprintf("port%d", c.number) }

func (c *bridgeContainer) Address(family int) netip.Addr {
	if family == 6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:99::%d", c.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.99.0.%d", c.number))
}
