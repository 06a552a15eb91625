// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/control/cluster/token"
	"github.com/fairlead-net/fairlead/control/daemon"
)

func newClusterTokenCommand(e *env) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "token [flags]",
		Short: "Print the join token of this host's embedded store",
		Long: `Print the join token of the store that this host's daemon embeds. Another host with
this line in a file joins the cluster:

  fairlead daemon --store etcd://HOST:2379 --store-token FILE

A person who has the token can change everything in the store.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			t, err := token.Read(filepath.Join(state, daemon.TokenFile))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("no join token in %s (start a daemon with --store embed first)", state)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, t.Text())
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state-dir", "/var/lib/fairlead", "directory of the daemon's state")
	return cmd
}
