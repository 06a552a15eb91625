// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
)

// docker20 is Docker Engine 20.10 as Debian ships it: bridge, iptables and
// docker-proxy.
func docker20(self string) Contestant {
	return docker{
		name: "docker20", self: self, daemon: debianDockerd,
		flags:  []string{"--experimental", "--ip6tables"},
		config: map[string]any{"deprecated-key-path": "DIR/key.json"}, // else in /etc
	}
}

// debianDockerd is the one of the package docker.io.
func debianDockerd(ctx context.Context) (string, error) {
	for _, program := range []string{"dockerd", "containerd", "runc", "docker-proxy", "iptables"} {
		if world.Command(ctx, program).Err != nil {
			return "", absentf("%s is not installed (apt-get install --no-install-recommends docker.io iptables)", program)
		}
	}
	return world.Command(ctx, "dockerd").Path, nil
}
