// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/bench"
	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/contestant/roster"
	"github.com/fairlead-net/fairlead/bench/report"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	cases, contestants []string
	rounds             int
	seconds            float64
	format, out        string
}

func newBenchCommand(e *env) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure Fairlead against Docker's bridge and against direct connections",
		Long: `Compare Fairlead with others in separate network namespaces. The host's network
is not changed, and everything is removed at the end. Every contestant runs in
every round, and results are ratios within a round. Requires root.

A case is PATH/LOAD/FAMILY, as in published/rr/4; * and {a,b} match several cases, and
"headline", "engine", "growth", "smoke" and "all" are lists. Contestants that are not
installed are reported as absent; "make bench" installs them all.`,
		Example: `  fairlead bench --case headline --out run.json
  fairlead bench --case 'peers/{rr,crr}/*' --contestants limit,fairlead --seconds 2`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.needsCapabilities(cmd); err != nil {
				return err
			}
			return runBench(cmd.Context(), e, o)
		},
	}
	cmd.AddCommand(newBenchCompareCommand(e))
	f := cmd.Flags()
	f.StringArrayVar(&o.cases, "case", []string{"headline"}, "cases to measure; repeatable")
	f.StringSliceVar(&o.contestants, "contestants", nil, "contestants to run (default: all)")
	f.IntVar(&o.rounds, "rounds", 12, "number of rounds to measure")
	f.Float64Var(&o.seconds, "seconds", 1, "duration of each measurement in seconds")
	f.StringVar(&o.format, "format", "table", "table or json")
	f.StringVar(&o.out, "out", "", "also write the run as JSON to this file, whatever the format")
	return cmd
}

func runBench(ctx context.Context, e *env, o benchOptions) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	cfg, err := o.config()
	if err != nil {
		return err
	}
	bar := newProgress(e.stderr, cfg.Measurements())
	cfg.Progress = func(what string) {
		bar.Describe(what)
		_ = bar.Add(1) // only for display
	}
	run, err := bench.Run(ctx, cfg)
	_ = bar.Exit()
	if run == nil {
		return err
	}
	if err := errors.Join(err, o.write(e.stdout, run)); err != nil {
		return err
	}
	if n := len(run.Failures()); n > 0 {
		return fmt.Errorf("%d measurements failed; see the report", n)
	}
	return nil
}

// config checks the flags and returns the configuration.
func (o *benchOptions) config() (bench.Config, error) {
	if o.rounds < 1 || o.seconds <= 0 {
		return bench.Config{}, usagef("--rounds and --seconds must be more than 0")
	}
	if o.format != "table" && o.format != "json" {
		return bench.Config{}, usagef("--format %q: want table or json", o.format)
	}
	self, err := os.Executable()
	if err != nil {
		return bench.Config{}, fmt.Errorf("find this program: %w", err)
	}
	list, err := cases.Select(o.cases)
	if err != nil {
		return bench.Config{}, usageError{err}
	}
	cfg := bench.Config{Self: self, Cases: list, Rounds: o.rounds, Duration: time.Duration(o.seconds * float64(time.Second))}
	cfg.Contestants, err = chooseContestants(roster.All(self), o.contestants)
	return cfg, err
}

// chooseContestants returns the contestants with these names, or all if names is empty.
func chooseContestants(all []contestant.Contestant, names []string) ([]contestant.Contestant, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []contestant.Contestant
	var known []string
	for _, c := range all {
		known = append(known, c.Name())
		if slices.Contains(names, c.Name()) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) != len(names) {
		return nil, usagef("--contestants %s: want some of %s, each once", strings.Join(names, ","), strings.Join(known, ","))
	}
	return chosen, nil
}

// write prints the run, and saves it to a file if --out names one.
func (o *benchOptions) write(w io.Writer, run *report.Run) error {
	if o.out != "" {
		f, err := os.Create(o.out)
		if err != nil {
			return fmt.Errorf("keep the run: %w", err)
		}
		if err := errors.Join(run.WriteJSON(f), f.Close()); err != nil {
			return fmt.Errorf("keep the run: %w", err)
		}
	}
	if o.format == "json" {
		return run.WriteJSON(w)
	}
	return run.WriteTable(w)
}
