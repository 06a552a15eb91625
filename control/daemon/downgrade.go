// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"

	"github.com/fairlead-net/fairlead/loader"
)

// Downgrade hands the flow tables over to an earlier build, the fairlead at to, whose daemon is to
// be started once ready was called with the names of the converted tables. It returns when that daemon
// has taken over. Whether a daemon of this build still runs until then makes no difference.
func Downgrade(ctx context.Context, bpfDir, to string, ready func(converted []string), log *slog.Logger) error {
	return loader.Downgrade(ctx, loader.DowngradeConfig{BPFDir: bpfDir, To: to, Ready: ready, Log: log})
}
