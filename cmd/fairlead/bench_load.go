// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/bench/load"
)

// newBenchLoadCommand returns the command that generates the traffic of the benchmarks.
func newBenchLoadCommand(e *env) *cobra.Command {
	var o load.Options
	var address string
	cmd := &cobra.Command{
		Use:    "bench-load {serve|run} KIND [flags] | bench-load idle",
		Short:  "Generate the traffic of a benchmark",
		Hidden: true,
		Args:   cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if args[0] == "idle" {
				return load.Idle()
			}
			if o.Address, err = netip.ParseAddrPort(address); err != nil {
				return usagef("--address: %s", err)
			}
			o.Kind = args[len(args)-1]
			switch args[0] {
			case "serve":
				return load.Serve(o)
			case "run":
				return load.Run(o, e.stdout)
			}
			return usageError{fmt.Errorf("bench-load %q is unknown; want serve, run or idle", args[0])}
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "address", "", "address of the server, or to listen on")
	f.IntVar(&o.Size, "size", 1, "bytes per message")
	f.IntVar(&o.Streams, "streams", 1, "connections of a stream load")
	f.DurationVar(&o.Duration, "duration", 0, "duration of the measurement")
	f.IntVar(&o.CPU, "cpu", 0, "processor to run on")
	return cmd
}
