// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-net/fairlead/bench/cases"
)

//go:embed plugin/plugin.c
var pluginSource string

// functions holds what a transaction takes by function of the kernel. Those of user space are one.
type functions map[string]cost

// cost holds the instructions that a function takes a transaction, and how often it is called.
type cost struct{ instructions, calls float64 }

const userSpace = "[user space]"

// profile counts by function, and writes for each case what a contestant spends and what it spends beyond the first.
func profile(ctx context.Context, o options) error {
	l, err := o.laboratory(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	plugin := filepath.Join(l.dir, "plugin.so")
	if err := compile(ctx, pluginSource, plugin, "-shared", "-fPIC", "-Wl,--unresolved-symbols=ignore-all"); err != nil {
		return err
	}
	for _, c := range cases.Counted(o.cases) {
		var first functions
		for _, name := range o.contestants {
			fmt.Fprintf(os.Stderr, "profiling %s of %s\n", c.Name(), name)
			found, err := l.profile(ctx, plugin, name, c)
			if err != nil {
				return err
			}
			if found == nil {
				continue // this contestant has no such case
			}
			fmt.Printf("%s of %s: %.0f instructions\n", c.Name(), name, found.sum())
			if first == nil {
				first = found
			}
			if err := found.write(os.Stdout, first); err != nil {
				return err
			}
		}
	}
	return nil
}

// profile returns what a contestant spends in a case.
func (l *laboratory) profile(ctx context.Context, plugin, contestant string, c cases.Count) (functions, error) {
	path := filepath.Join(l.dir, "blocks")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	report, err := l.boot(ctx, contestant, "-symbols -rounds=1 -cases="+c.Name(), plugin+",out="+path)
	if err != nil {
		return nil, err
	}
	symbols := readSymbols(report)
	if symbols == nil {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBlocks(f, symbols, c.Transactions)
}

// symbol is where a function begins.
type symbol struct {
	address uint64
	name    string
}

// readSymbols returns the functions in a guest's report, sorted.
func readSymbols(report string) []symbol {
	var symbols []symbol
	for line := range strings.Lines(report) {
		var s symbol
		if n, _ := fmt.Sscanf(line, "symbol %x %s", &s.address, &s.name); n == 2 {
			symbols = append(symbols, s)
		}
	}
	slices.SortStableFunc(symbols, func(a, b symbol) int { return cmp.Compare(a.address, b.address) })
	return symbols
}

// functionOf returns the name of the function that an address belongs to, and whether it begins there. BPF programs are named without their tags.
func functionOf(symbols []symbol, address uint64) (string, bool) {
	if address < 1<<63 {
		return userSpace, false
	}
	i, found := slices.BinarySearchFunc(symbols, address, func(s symbol, a uint64) int { return cmp.Compare(s.address, a) })
	if !found {
		i--
	}
	if i < 0 {
		return "?", false
	}
	if rest, ok := strings.CutPrefix(symbols[i].name, "bpf_prog_"); ok {
		_, name, _ := strings.Cut(rest, "_")
		return "bpf:" + name, found
	}
	return symbols[i].name, found
}

// readBlocks adds up what the plugin wrote for the second pair of marks: the first warmed up.
func readBlocks(r io.Reader, symbols []symbol, transactions int) (functions, error) {
	found := functions{}
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			if len(found) == 0 {
				return nil, errors.Join(errors.New("the plugin counted nothing between marks"), lines.Err())
			}
			return found, lines.Err()
		}
		var (
			pair       int
			address    uint64
			runs, size float64
		)
		if _, err := fmt.Sscanf(lines.Text(), "%d %x %g %g", &pair, &address, &runs, &size); err != nil {
			return nil, fmt.Errorf("line %q of the plugin: %w", lines.Text(), err)
		}
		if pair != 1 {
			continue
		}
		name, begins := functionOf(symbols, address)
		c := found[name]
		c.instructions += runs * size / float64(transactions)
		if begins {
			c.calls += runs / float64(transactions)
		}
		found[name] = c
	}
}

func (f functions) sum() float64 {
	var sum float64
	for _, c := range f {
		sum += c.instructions
	}
	return sum
}

// write writes the functions, those first that cost most beyond the other's.
func (f functions) write(w io.Writer, other functions) error {
	names := slices.Collect(maps.Keys(f))
	for name := range other {
		if _, ok := f[name]; !ok {
			names = append(names, name)
		}
	}
	beyond := func(name string) float64 { return f[name].instructions - other[name].instructions }
	key := beyond
	if maps.Equal(f, other) {
		key = func(name string) float64 { return f[name].instructions }
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(key(b), key(a)), cmp.Compare(a, b)) })
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "instructions\tbeyond\tcalls\t\n")
	for _, name := range names {
		if c := f[name]; c.instructions >= 1 || beyond(name) <= -1 {
			fmt.Fprintf(tw, "%.0f\t%+.0f\t%.1f\t %s\n", c.instructions, beyond(name), c.calls, name)
		}
	}
	return tw.Flush()
}
