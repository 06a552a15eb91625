// SPDX-License-Identifier: Apache-2.0

package contestant

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
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
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find what was built: %w", err)
	}
	dir := filepath.Join(cache, "fairlead", "docker29")
	for _, program := range []string{"dockerd", "docker-proxy", "runc"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return "", absentf("%s is not built (make bench builds it)", filepath.Join(dir, program))
		}
	}
	for _, program := range []string{"containerd", "nft"} {
		if world.Command(ctx, program).Err != nil {
			return "", absentf("%s is not installed (make bench installs it)", program)
		}
	}
	return filepath.Join(dir, "dockerd"), nil
}
