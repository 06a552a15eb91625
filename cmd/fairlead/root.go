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
		Long: `Fairlead gives network namespaces the networks Docker knows, forwarded by eBPF.

"fairlead daemon" runs on every host; the other commands speak to it.
"fairlead doctor" says what this kernel offers, "fairlead demo" shows it all.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          verbArgs,
		RunE:          showHelp,
	}
	root.PersistentFlags().StringVar(&e.host, "host", "",
		"daemon to speak to, unix:///PATH (default $FAIRLEAD_HOST or unix:///run/fairlead/api.sock)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newNetworkCommand(e), newRunCommand(e), newExecCommand(e), newPsCommand(e), newInspectCommand(e),
		newRmCommand(e), newPortCommand(e), newSandboxCommand(e), newStatusCommand(e), newCtCommand(e),
		newDaemonCommand(e), newDoctorCommand(e), newCleanupCommand(e), newDowngradeCommand(e), newDemoCommand(e), newVersionCommand(e),
		newBenchCommand(e), newBenchLoadCommand(e),
		newLaterCommand("policy", "--internal and icc=false are the rules there are, see: fairlead network create --help"),
		newLaterCommand("nat", "NAT shows in: fairlead ct ls"),
		newLaterCommand("monitor", "refused packets are counted in the metrics, flows are in: fairlead ct ls"),
	)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout) // before the completion command, which remembers it
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

// help shows the help of the command that the arguments name.
func help(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("unknown help topic %q", strings.Join(args, " "))
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	return c.Help()
}

// newGroup is a command that only holds others.
func newGroup(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: verbArgs, RunE: showHelp}
	c.AddCommand(verbs...)
	return c
}

// newLaterCommand is known but refused, so that the refusal can say what there
// is instead.
func newLaterCommand(name, instead string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: "Not available yet", Hidden: true, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return fmt.Errorf("%s is not available yet (%s)", name, instead) },
	}
}

// verbArgs refuses what is no verb of the group.
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

// notYet refuses a flag of a later capability.
func notYet(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return later("--" + name)
		}
	}
	return nil
}

func later(what string) error { return fmt.Errorf("%s is not available yet (leave it out)", what) }

// laterFlags declares flags that are known but refused, so that the refusal
// can say so.
func laterFlags(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		cmd.Flags().StringArray(name, nil, "not available yet")
	}
}
