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
)

// The rules that engines install on a host where one container, 10.99.0.2, publishes Port on
// the bridge br0. TestEnginesRules captures them.
var (
	//go:embed rules/docker29.nft
	docker29Rules string
	//go:embed rules/docker20.iptables
	docker20Rules string
)

// ruled is a bridge with an engine's rules but without the engine, for measurements in which
// nothing may run except the packet path.
type ruled struct {
	bridge
	name, version string
	text          string
	load          []string // the program, with its flags, that loads a file with the text
	filterBridged bool     // the engine makes the kernel pass bridged packets to netfilter
	flowtable     bool     // an operator may add one to speed up established flows
}

func (r ruled) Name() string                            { return r.name }
func (r ruled) Version(context.Context) (string, error) { return r.version, nil }

func (r ruled) Lacks(c cases.Case) string {
	if c.Family == 6 && r.load[0] == "iptables-restore" {
		return "its rules are for IPv4"
	}
	if reason := oneHost(c); reason != "" {
		return reason
	}
	return r.bridge.Lacks(c)
}

func (r ruled) Build(ctx context.Context, t *topology.Topology, path cases.Path) (contestant.Network, error) {
	n, err := r.bridge.Build(ctx, t, path)
	if err != nil {
		return nil, err
	}
	if r.filterBridged {
		if err := t.Host.Sysctl("bridge/bridge-nf-call-iptables", "1"); err != nil {
			return nil, errors.Join(fmt.Errorf("show bridged packets to netfilter: %w", err), n.Close())
		}
	}
	net := &ruledNetwork{n.(*bridgeNetwork), r}
	if err := net.apply(ctx, r.text, r.load...); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return net, nil
}

type ruledNetwork struct {
	*bridgeNetwork
	ruled ruled
}

func (n *ruledNetwork) Container(ctx context.Context, name string, ports int, args ...string) (contestant.Container, error) {
	c, err := n.bridgeNetwork.Container(ctx, name, ports, args...)
	if err != nil || !n.ruled.flowtable {
		return c, err
	}
	return c, n.offload(ctx)
}

// offload gives established flows a shortcut between the uplink and the bridge's ports that
// bypasses the rules, as nft(8) describes under flowtables.
func (n *ruledNetwork) offload(ctx context.Context) error {
	devices := "eth0"
	for _, c := range n.containers {
		devices += ", " + c.port()
	}
	return n.apply(ctx, fmt.Sprintf(`
table inet shortcut
delete table inet shortcut
table inet shortcut {
	flowtable flows { hook ingress priority filter; devices = { %s }; }
	chain forward { type filter hook forward priority filter - 10; policy accept; ct state established flow add @flows; }
}
`, devices), "nft", "-f")
}

// apply loads rules with a program.
func (n *ruledNetwork) apply(ctx context.Context, rules string, program ...string) error {
	file := filepath.Join(n.t.Dir, "rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	_, err := n.t.On(n.t.Host).Run(ctx, append(program, file)...)
	return err
}

func (*ruledNetwork) Published(path cases.Path, _ contestant.Container, family int) netip.Addr {
	return onHost(path, family)
}
