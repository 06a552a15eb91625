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
	var fresh bool
	cmd := &cobra.Command{
		Use:   "token [flags]",
		Short: "Print the join token of this host's embedded store",
		Long: `Print the join token of the store that this host's daemon embeds. Another host with
this line in a file joins the cluster:

  fairlead daemon --store etcd://HOST:2379 --store-token FILE

With --new, it prints a token that nobody has, for hosts that are yet to be set up: the
daemon with the store reads the file of --store-token too, if it exists.

A person who has the token can change everything in the store.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if fresh {
				fmt.Fprintln(e.stdout, token.New().Text())
				return nil
			}
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
	cmd.Flags().BoolVar(&fresh, "new", false, "make a token for a cluster that does not exist yet")
	return cmd
}
