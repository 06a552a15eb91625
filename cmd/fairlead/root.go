// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newRootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "Container networks on eBPF",
		Long: `Fairlead connects network namespaces with networks like Docker's, forwarded by eBPF.

"fairlead daemon" runs on every host; the other commands connect to it.
"fairlead doctor" checks the kernel, "fairlead demo" demonstrates the features.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          verbArgs,
		RunE:          showHelp,
	}
	root.PersistentFlags().StringVar(&e.host, "host", "",
		"daemon to connect to, unix:///PATH (default $FAIRLEAD_HOST or unix:///run/fairlead/api.sock)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newNetworkCommand(e), newRunCommand(e), newExecCommand(e), newPsCommand(e), newInspectCommand(e),
		newRmCommand(e), newPortCommand(e), newEventsCommand(e), newPublishCommand(e), newUpdateCommand(e), newRenameCommand(e), newSandboxCommand(e), newServiceCommand(e), newNodeCommand(e), newClusterCommand(e), newIPAMCommand(e), newStatusCommand(e), newCtCommand(e),
		newDaemonCommand(e), newDoctorCommand(e), newCleanupCommand(e), newDowngradeCommand(e), newDemoCommand(e), newVersionCommand(e),
		newBenchCommand(e), newBenchLoadCommand(e),
		newLaterCommand("policy", "--internal and icc=false are the rules there are, see: fairlead network create --help"),
		newLaterCommand("nat", "NAT shows in: fairlead ct ls"),
		newLaterCommand("monitor", "refused packets are counted in the metrics, flows are in: fairlead ct ls"),
	)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout) // before the completion command, which captures it
	root.SetErr(e.stderr)
	root.Version = readBuildInfo().Version // --version, -v
	root.SetVersionTemplate(readBuildInfo().String())
	root.InitDefaultHelpCmd()
	if c, _, err := root.Find([]string{"help"}); err == nil {
		c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error { return help(root, args) }
	}
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Args, c.RunE = verbArgs, showHelp
	}
	return root
}

// help prints the help of the command that the arguments name.
func help(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("unknown help topic %q", strings.Join(args, " "))
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	return c.Help()
}

// newGroup returns a command that only groups subcommands.
func newGroup(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: verbArgs, RunE: showHelp}
	c.AddCommand(verbs...)
	return c
}

// newLaterCommand returns a command that is not available yet. Its error names the
// alternative.
func newLaterCommand(name, instead string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: "Not available yet", Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return fmt.Errorf("%s is not available yet (%s)", name, instead) },
	}
}

// verbArgs refuses arguments that are not subcommands of the group.
func verbArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		text += fmt.Sprintf(", did you mean %q", strings.Join(s, "\" or \""))
	}
	return usagef("%s", text)
}

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func later(what string) error { return fmt.Errorf("%s is not available yet (leave it out)", what) }
