// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"

	"github.com/fairlead-net/fairlead/bench/engine"
)

// docker20 is Docker Engine 20.10 as Debian ships it: bridge, iptables and
// docker-proxy.
func docker20(self string) docker {
	return docker{
		name: "docker20", self: self, daemon: debianDockerd,
		flags:  []string{"--experimental", "--ip6tables"},
		config: engine.DebianFile(),
	}
}

// debianDockerd is the one of the package docker.io.
func debianDockerd(ctx context.Context) (string, error) {
	path, err := engine.Debian(ctx)
	if err != nil {
		return "", Absent{err.Error()}
	}
	return path, nil
}
