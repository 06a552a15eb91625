// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"

	"github.com/fairlead-net/fairlead/bench/engine"
)

// docker29 is Docker Engine 29, built from its Go module with its docker-proxy
// and the runc it needs: bridge and nftables. containerd is Debian's.
func docker29(self string) Contestant {
	return docker{
		name: "docker29", self: self, daemon: builtDockerd,
		flags: []string{"--firewall-backend", "nftables"},
	}
}

// builtDockerd is the one that bench/docker29.sh has built.
func builtDockerd(ctx context.Context) (string, error) {
	path, err := engine.Built(ctx)
	if err != nil {
		return "", Absent{err.Error()}
	}
	return path, nil
}
