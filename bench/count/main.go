// SPDX-License-Identifier: Apache-2.0

// Command count counts the instructions that a transaction takes, in user space and in the
// kernel, in a guest whose clock follows them: a busy machine makes the run slower but does
// not change the counts. It writes a table, and its test compares Fairlead with that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// tablePath is the table's path in the repository.
const tablePath = "bench/results/count/table.txt"

// contestants lists all contestants, in the table's order.
var contestants = []string{"limit", "bridge", "flowtable", "nft", "iptables", "swarm", "fairlead"}

// counted is the pattern of all cases.
const counted = "*/*/*"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o options
	names := flag.String("contestants", strings.Join(contestants, ","), "contestants to count; the others keep their figures in the table if nothing else has changed")
	flag.StringVar(&o.cases, "cases", counted, "cases to count, as in published/rr/4")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; their median is the count")
	flag.StringVar(&o.fairlead, "fairlead", "", "program to count as Fairlead (default: built from this repository)")
	flag.StringVar(&o.out, "out", tablePath, "table to write")
	noted := flag.Bool("note", false, "only report whether counts here cannot be compared with the table's")
	profiled := flag.Bool("profile", false, "write no table, but the instructions of each function, and those beyond the first contestant's")
	flag.Parse()
	o.contestants = strings.Split(*names, ",")
	work := run
	switch {
	case *noted:
		work = note
	case *profiled:
		work = profile
	}
	if err := work(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
		os.Exit(1)
	}
}

type options struct {
	contestants   []string
	cases         string
	rounds        int
	fairlead, out string
}

// laboratory checks the contestants and makes a laboratory for them.
func (o options) laboratory(ctx context.Context) (*laboratory, error) {
	for _, name := range o.contestants {
		if !slices.Contains(contestants, name) {
			return nil, fmt.Errorf("contestant %q is unknown; want some of %s", name, strings.Join(contestants, ","))
		}
	}
	return newLaboratory(ctx, o.fairlead)
}

// run counts, and rewrites the table.
func run(ctx context.Context, o options) error {
	l, err := o.laboratory(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	t, err := readTable(o.out)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && t.Environment != l.environment:
		t = newTable(l.environment)
	case err != nil:
		return err
	}
	for _, name := range o.contestants {
		fmt.Fprintf(os.Stderr, "counting %s\n", name)
		counts, err := l.count(ctx, name, o.cases, o.rounds)
		if err != nil {
			return err
		}
		for c, n := range counts {
			t.set(c, name, n)
		}
	}
	return t.write(o.out)
}

// note prints a line if the table was counted in another environment.
func note(ctx context.Context, o options) error {
	deb, err := kernel.Fetch(ctx)
	if err != nil {
		return err
	}
	here, err := describe(ctx, deb)
	if err != nil {
		return err
	}
	t, err := readTable(o.out)
	if err != nil {
		return err
	}
	if t.Environment != here {
		fmt.Println(t.otherwise(here))
	}
	return nil
}
