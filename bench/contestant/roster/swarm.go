// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"errors"
	"net/http"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/engine"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// swarm is Docker's own network of two hosts: an engine on each in a swarm, whose manager is on the host, and containers
// in an attachable network of the driver overlay.
type swarm struct{ docker }

// dockerOverlay is a swarm of Docker Engine 29. An engine in a swarm can only use iptables.
func dockerOverlay(self string) swarm {
	return swarm{docker{name: cases.DockerOverlay, self: self, find: engine.Built, flags: []string{"--firewall-backend", "iptables"}}}
}

func (swarm) Lacks(c cases.Case) string {
	switch {
	case c.Path != cases.Overlay:
		return "only networks of two hosts are measured by it"
	case c.Family == 6:
		return "a swarm allocates IPv4 subnets only"
	}
	return ""
}

func (s swarm) Version(ctx context.Context) (string, error) {
	version, err := s.docker.Version(ctx)
	return version + ", network of a swarm", err
}

func (s swarm) Build(ctx context.Context, t *topology.Topology, _ cases.Path) (_ contestant.Network, retErr error) {
	if err := t.TwoHosts(); err != nil {
		return nil, err
	}
	near, err := s.start(ctx, t, t.Host, "overlay")
	if err != nil {
		return nil, err
	}
	n := swarmNetwork{dockerNetwork: near}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, n.Close())
		}
	}()
	if n.far, err = s.start(ctx, t, t.Outside, "overlay"); err != nil {
		return nil, err
	}
	if err := n.join(ctx); err != nil {
		return nil, err
	}
	return n, n.create(ctx)
}

type swarmNetwork struct {
	*dockerNetwork
	far *dockerNetwork // the engine on the outside machine
}

// join makes the engines a swarm.
func (n swarmNetwork) join(ctx context.Context) error {
	const port = ":2377"
	here, there := topology.HostAddress(4).String(), topology.OutsideAddress(4).String()
	err := n.Call(ctx, http.MethodPost, "/swarm/init", map[string]any{"ListenAddr": here + port, "AdvertiseAddr": here}, nil)
	if err != nil {
		return err
	}
	var made struct{ JoinTokens struct{ Worker string } }
	if err := n.Call(ctx, http.MethodGet, "/swarm", nil, &made); err != nil {
		return err
	}
	return n.far.Call(ctx, http.MethodPost, "/swarm/join", map[string]any{
		"ListenAddr": there + port, "AdvertiseAddr": there, "RemoteAddrs": []string{here + port}, "JoinToken": made.JoinTokens.Worker,
	}, nil)
}

// create makes the swarm's network, in which containers may be that are not of a service.
func (n swarmNetwork) create(ctx context.Context) error {
	return n.Call(ctx, http.MethodPost, "/networks/create", map[string]any{
		"Name": "bench", "Driver": n.driver, "Attachable": true,
		"IPAM": map[string]any{"Config": []any{map[string]string{"Subnet": subnet4}}},
	}, nil)
}

func (n swarmNetwork) Far(ctx context.Context, name string) (contestant.Container, error) {
	return n.far.Container(ctx, name, 0)
}

func (n swarmNetwork) Close() error {
	err := n.dockerNetwork.Close()
	if n.far != nil {
		err = errors.Join(err, n.far.Close())
	}
	return err
}
