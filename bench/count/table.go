// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-net/fairlead/bench/cases"
)

// environment is what counts depend on besides the code that is counted. Counts of different
// environments are not compared.
type environment struct {
	Kernel   string // of the guest
	Compiler string // of the load
	QEMU     string
}

func (e environment) String() string {
	return fmt.Sprintf("Linux %s, %s, QEMU %s", e.Kernel, e.Compiler, e.QEMU)
}

// table holds the counts by case and contestant.
type table struct {
	Environment environment
	counts      map[string]map[string]float64
}

func newTable(e environment) *table {
	return &table{Environment: e, counts: make(map[string]map[string]float64)}
}

func (t *table) set(c, contestant string, n float64) {
	if t.counts[c] == nil {
		t.counts[c] = make(map[string]float64)
	}
	t.counts[c][contestant] = math.Round(n)
}

const (
	head = `Instructions that a transaction takes, or a datagram of udp64, of user and kernel.
make bench-count writes this; docs/benchmarks.md says how to read it.

`
	ratios   = "To the limit:"
	absent   = "-"
	caseName = "case"
)

// write writes the table, with its ratios to the limit.
func (t *table) write(path string) error {
	var b bytes.Buffer
	b.WriteString(head)
	for _, line := range [][2]string{{"kernel", t.Environment.Kernel}, {"compiler", t.Environment.Compiler}, {"qemu", t.Environment.QEMU}} {
		fmt.Fprintf(&b, "%s: %s\n", line[0], line[1])
	}
	b.WriteString("\n")
	t.tabulate(&b, func(c, contestant string) string { return text("%.0f", t.counts[c][contestant]) })
	b.WriteString("\n" + ratios + "\n\n")
	t.tabulate(&b, func(c, contestant string) string {
		return text("%.2f", t.counts[c][contestant]/t.counts[c]["limit"])
	})
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// text formats a number, or returns a placeholder if there is none.
func text(format string, n float64) string {
	if n == 0 || math.IsNaN(n) || math.IsInf(n, 0) {
		return absent
	}
	return fmt.Sprintf(format, n)
}

func (t *table) tabulate(b *bytes.Buffer, cell func(c, contestant string) string) {
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%s\t%s\t\n", caseName, strings.Join(contestants, "\t"))
	for _, c := range cases.Counted(counted) {
		if t.counts[c.Name()] == nil {
			continue
		}
		fmt.Fprintf(tw, "%s\t", c.Name())
		for _, contestant := range contestants {
			fmt.Fprintf(tw, "%s\t", cell(c.Name(), contestant))
		}
		fmt.Fprintln(tw)
	}
	tw.Flush() // to memory
}

// readTable reads what write wrote.
func readTable(path string) (*table, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t := newTable(environment{})
	keys := map[string]*string{"kernel": &t.Environment.Kernel, "compiler": &t.Environment.Compiler, "qemu": &t.Environment.QEMU}
	var columns []string
	body, _, _ := strings.Cut(strings.TrimPrefix(string(content), head), ratios)
	for line := range strings.Lines(body) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case keys[key] != nil:
			*keys[key] = value
		case f[0] == caseName:
			columns = f[1:]
		case len(f) != len(columns)+1:
			return nil, fmt.Errorf("%s: line %q has %d columns, want %d", path, line, len(f), len(columns)+1)
		default:
			if err := t.read(f[0], columns, f[1:]); err != nil {
				return nil, fmt.Errorf("%s: line %q: %w", path, line, err)
			}
		}
	}
	if slices.Contains([]string{t.Environment.Kernel, t.Environment.Compiler, t.Environment.QEMU}, "") || len(t.counts) == 0 {
		return nil, fmt.Errorf("%s has no table (make bench-count writes one)", path)
	}
	return t, nil
}

// read reads one line's numbers.
func (t *table) read(c string, columns, cells []string) error {
	for i, cell := range cells {
		if cell == absent {
			continue
		}
		n, err := strconv.ParseFloat(cell, 64)
		if err != nil {
			return err
		}
		t.set(c, columns[i], n)
	}
	return nil
}
