// SPDX-License-Identifier: Apache-2.0

// Command guest runs in the guests of package count: as their init it prepares the machine,
// and as its own child it makes the benchmarks' worlds and contestants and counts there.
package main

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/bench"
	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/contestant/roster"
	"github.com/fairlead-net/fairlead/bench/vm/guest"
)

func main() {
	if os.Getpid() == 1 {
		guest.Boot(os.Args[1:]) // does not return
	}
	if err := drive(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// drive counts the cases given by the flags, and writes a line for each: its name, and the
// counts of the rounds.
func drive(args []string) error {
	flags := flag.NewFlagSet("guest", flag.ContinueOnError)
	name := flags.String("contestant", "", "contestant to count")
	pattern := flags.String("cases", "", "which cases, as PATH/LOAD/FAMILY")
	rounds := flags.Int("rounds", 1, "rounds that count")
	symbols := flags.Bool("symbols", false, "also write the kernel's functions, with BPF programs, after each world")
	if err := flags.Parse(args); err != nil {
		return err
	}
	after := func() error { return nil }
	if *symbols {
		after = writeSymbols
	}
	all := roster.Counted("/bin/fairlead")
	i := slices.IndexFunc(all, func(c contestant.Contestant) bool { return c.Name() == *name })
	if i < 0 {
		return fmt.Errorf("contestant %q is unknown (arguments %q)", *name, args)
	}
	counted := slices.DeleteFunc(cases.Counted(*pattern), func(c cases.Count) bool { return all[i].Lacks(c.Case) != "" })
	// A world takes longer to make than to count in: one is made for each path.
	slices.SortStableFunc(counted, func(a, b cases.Count) int { return cmp.Compare(a.Path, b.Path) })
	for len(counted) > 0 {
		n := 1
		for n < len(counted) && counted[0].Path == counted[n].Path {
			n++
		}
		counts, err := bench.Count(context.Background(), "/bin/load", all[i], counted[:n], *rounds, after)
		if err != nil {
			return err
		}
		for i, c := range counted[:n] {
			fmt.Print("count ", c.Name())
			for _, n := range counts[i] {
				fmt.Printf(" %.1f", n)
			}
			fmt.Println()
		}
		counted = counted[n:]
	}
	return nil
}

// writeSymbols writes a line for each function of the kernel, with those of BPF programs: its address, and its name.
func writeSymbols() error {
	content, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(os.Stdout)
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) > 2 && strings.Contains("tTwW", f[1]) {
			fmt.Fprintln(w, "symbol", f[0], f[2])
		}
	}
	return w.Flush()
}
