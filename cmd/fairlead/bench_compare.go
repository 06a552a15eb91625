// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/bench/report"
)

func newBenchCompareCommand(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "compare [flags] OLD NEW",
		Short: "Show what changed beyond noise between two runs",
		Long: `Show what changed beyond noise between two runs saved by "fairlead bench --out".
Each case is compared by its ratios to the limit in each round, so that the speed
of the machine at the time does not matter.`,
		Args: exactArgs("OLD", "NEW"),
		RunE: func(_ *cobra.Command, args []string) error { return runBenchCompare(e, format, args[0], args[1]) },
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

func runBenchCompare(e *env, format, before, after string) error {
	if format != "table" && format != "json" {
		return usagef("--format %q: want table or json", format)
	}
	runs := make([]*report.Run, 2)
	for i, path := range []string{before, after} {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open run: %w", err)
		}
		runs[i], err = report.Read(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	changes := report.Changes(runs[0], runs[1])
	if len(changes) == 0 {
		return fmt.Errorf("%s and %s have no case in common that both measured with fairlead and limit", before, after)
	}
	if format == "json" {
		return json.NewEncoder(e.stdout).Encode(changes)
	}
	return report.WriteChanges(e.stdout, changes)
}
