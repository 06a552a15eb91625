// SPDX-License-Identifier: Apache-2.0

// Command fairlead-store is the store of a cluster in which no other is installed: an etcd.
// `fairlead daemon --store embed` starts it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/cluster/embed"
	"github.com/fairlead-net/fairlead/control/cluster/launch"
	"github.com/fairlead-net/fairlead/control/cluster/token"
)

type options struct {
	dir, listen, tokenFile, logFormat string
	endWithStdin                      bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, launch.Program+":", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   launch.Program + " --dir DIR --listen IP:PORT [flags]",
		Short: "The store of a cluster of Fairlead hosts: an etcd",
		Long: `The store of a cluster of Fairlead hosts in which no other is installed: an etcd.

"fairlead daemon --store embed" starts it. To run it by itself, for example so that it
stays while the daemon restarts, give the daemon --store etcd://IP:PORT instead, and
--store-token FILE if it has a token.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
		RunE:          func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory of the data (required)")
	f.StringVar(&o.listen, "listen", "", "listen address for the hosts of the cluster, IP:PORT (required)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the join token (default: none, every host is admitted)")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&o.endWithStdin, "end-with-stdin", false, "end when standard input is closed")
	for _, name := range []string{"dir", "listen"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	return cmd
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// run serves until ctx ends.
func (o options) run(ctx context.Context) error {
	cfg := embed.Config{Dir: o.dir}
	var err error
	if cfg.Listen, err = netip.ParseAddrPort(o.listen); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	switch o.logFormat {
	case "text":
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	case "json":
		cfg.Log = slog.New(slog.NewJSONHandler(os.Stderr, nil))
	default:
		return fmt.Errorf("--log-format: %q is neither text nor json", o.logFormat)
	}
	if o.tokenFile != "" {
		if cfg.Token, err = token.Read(o.tokenFile); err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.endWithStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, nothing writes any more
			cancel()
		}()
	}
	server, err := embed.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Println(launch.Ready)
	select {
	case err := <-server.Err():
		server.Close()
		if err == nil {
			err = errors.New("etcd stopped")
		}
		return err
	case <-ctx.Done():
		server.Close()
		return nil
	}
}
