// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// under is Fairlead under a Docker Engine: the engine's containers, in a network of
// Fairlead's driver. Their packets should cost what the packets of the command line's
// sandboxes cost.
type under struct {
	docker
	fairlead fairlead
}

// underDocker20 is under Docker Engine 20.10 as Debian ships it.
func underDocker20(self string) contestant.Contestant { return newUnder(self, cases.Under, nil) }

// untrackedDocker20 is the same in a network where the kernel does not track the containers'
// connections, which it otherwise does for the engine's DNS.
func untrackedDocker20(self string) contestant.Contestant {
	return newUnder(self, cases.Untracked, map[string]string{"fairlead.untracked": "true"})
}

func newUnder(self, name string, options map[string]string) contestant.Contestant {
	d := docker20(self)
	d.name, d.options = name, options
	return under{d, fairlead{self}}
}

func (u under) Version(ctx context.Context) (string, error) {
	engine, err := u.docker.Version(ctx)
	if err != nil {
		return "", err
	}
	own, err := u.fairlead.Version(ctx)
	return fmt.Sprintf("%s, network driver of %s", engine, own), err
}

func (under) Lacks(c cases.Case) string {
	if c.Path.Grows() || c.Path == cases.Setup {
		return "only what packets cost is measured by it"
	}
	return oneHost(c)
}

// Build starts Fairlead first: the engine finds the driver by its socket.
func (u under) Build(ctx context.Context, t *topology.Topology, _ cases.Path) (contestant.Network, error) {
	f, err := u.fairlead.start(ctx, t, t.Host)
	if err != nil {
		return nil, err
	}
	n, err := u.build(ctx, t, "fairlead")
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return underNetwork{n, f}, nil
}

type underNetwork struct {
	*dockerNetwork
	fairlead *fairleadNetwork
}

func (n underNetwork) Close() error { return errors.Join(n.dockerNetwork.Close(), n.fairlead.Close()) }
