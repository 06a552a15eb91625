// SPDX-License-Identifier: Apache-2.0

package faces

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	page       = "../../docs/faces.md"
	refreshVar = "FAIRLEAD_REFRESH"
)

// table holds what was observed.
type table struct {
	behaviours []behaviour // in order
	columns    []column    // the first is the reference
	explained  []difference

	mu   sync.Mutex
	rows map[cell]string
}

// cell is a behaviour of a face.
type cell struct{ behaviour, face string }

func newTable(behaviours []behaviour, columns []column, explained []difference) *table {
	return &table{behaviours: behaviours, columns: columns, explained: explained, rows: map[cell]string{}}
}

func (a *table) put(behaviour, face, observation string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rows[cell{behaviour, face}] = observation
}

// judge wants every observation made, and every difference from the first face
// explained, and no other explained.
func (a *table) judge(t *testing.T) {
	t.Helper()
	why := a.explanations(t)
	for _, b := range a.behaviours {
		want := a.rows[cell{b.name, a.columns[0].name}]
		for _, c := range a.columns {
			at := cell{b.name, c.name}
			got, made := a.rows[at]
			d, explained := why[at]
			switch {
			case !made:
				t.Errorf("%s: %q was not observed", at.face, at.behaviour)
			case isFailure(got):
				t.Errorf("%s: %q could not be observed: %s", at.face, at.behaviour, strings.TrimPrefix(got, failure))
			case explained && got == want:
				t.Errorf("%s: %q is %q, as with %s, but a difference is explained: %s", at.face, at.behaviour, got, a.columns[0].name, d.why)
			case explained && got != d.observed:
				t.Errorf("%s: %q is %q; explained is %q: %s", at.face, at.behaviour, got, d.observed, d.why)
			case !explained && got != want:
				t.Errorf("%s: %q is %q, with %s %q: say why in explained", at.face, at.behaviour, got, a.columns[0].name, want)
			}
			delete(why, at)
		}
	}
	for at := range why {
		t.Errorf("explained is %q of %s, which nobody observes", at.behaviour, at.face)
	}
}

// explanations are those of single cells.
func (a *table) explanations(t *testing.T) map[cell]difference {
	t.Helper()
	all := map[cell]difference{}
	for _, d := range a.explained {
		for _, face := range d.faces {
			for _, behaviour := range d.behaviours {
				at := cell{behaviour, face}
				if _, twice := all[at]; twice {
					t.Errorf("%q of %s is explained twice", behaviour, face)
				}
				all[at] = d
			}
		}
	}
	return all
}

// split is where the page's second table begins.
const split = "## Modes and names\n"

// document writes the table's part of docs/faces.md, or compares it: the first, or the one that begins with split.
func (a *table) document(t *testing.T, head string) {
	t.Helper()
	was, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(was), "\n"+split)
	text := a.markdown(t, head)
	if rest, ok := strings.CutPrefix(text, split); ok {
		second = rest
	} else {
		first = text
	}
	text = first + "\n" + split + second
	if os.Getenv(refreshVar) != "" {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(was) != text {
		t.Errorf("docs/faces.md differs from what was observed; write it again: %s=1 go test ./test/faces", refreshVar)
	}
}

var head = fmt.Sprintf(`# One list of behaviours, every front end

Every way to run containers is held to the same list of behaviours. `+"`test/faces`"+` starts real
engines and runtimes, each on a host of its own with a machine outside, observes them, and
writes this page:

`+"```"+`
%s=1 go test ./test/faces
`+"```"+`

The first column is Docker's own bridge driver, with which the others are compared. "docker" is
Engine 20.10, "docker 29" uses the nftables backend. Both podmans, CNI (libcni alone), CRI
(containerd's pods) and "fairlead", the command line, use Fairlead's networks. A number
refers to the reason for a difference. A difference without an explanation fails the test, and so
does an explanation that is no longer true.

"The server sees" is followed by the client's address as the server sees it: the client's own,
the gateway of the server's network, or the host. "no" means that there was no answer, or an
error saying that there is no route; "refused" is an error that gives the reason.

`, refreshVar)

// markdown is the page.
func (a *table) markdown(t *testing.T, head string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(head)
	names := make([]string, len(a.columns))
	for i, c := range a.columns {
		names[i] = c.name
	}
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(a.columns)))
	why := a.explanations(t)
	var reasons []string
	for _, row := range a.behaviours {
		fmt.Fprintf(&b, "| %s |", row.name)
		for _, c := range a.columns {
			at := cell{row.name, c.name}
			fmt.Fprintf(&b, " %s", a.rows[at])
			if d, explained := why[at]; explained {
				n := slices.Index(reasons, d.why)
				if n < 0 {
					n = len(reasons)
					reasons = append(reasons, d.why)
				}
				fmt.Fprintf(&b, " (%d)", n+1)
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	level := "##"
	if strings.HasPrefix(head, split) {
		level = "###"
	}
	fmt.Fprintf(&b, "\n%s Why they differ\n\n", level)
	for i, reason := range reasons {
		b.WriteString(wrap(fmt.Sprintf("%d. ", i+1), reason))
	}
	return b.String()
}

// wrap breaks an item of a list into lines.
func wrap(item, text string) string {
	const width = 92
	lines := []string{item}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		if len(*last)+len(word) > width {
			*last = strings.TrimRight(*last, " ")
			lines = append(lines, strings.Repeat(" ", len(item)))
			last = &lines[len(lines)-1]
		}
		*last += word + " "
	}
	return strings.TrimRight(strings.Join(lines, "\n"), " ") + "\n"
}

// print shows the table to the person that runs the test.
func (a *table) print(t *testing.T) {
	t.Helper()
	width := 0
	for _, row := range a.behaviours {
		width = max(width, len(row.name))
	}
	line := func(first string, cell func(face string) string) {
		fmt.Printf("%-*s", width, first)
		for _, c := range a.columns {
			fmt.Printf("  %-*s", len(c.name), cell(c.name))
		}
		fmt.Println()
	}
	line("", func(face string) string { return face })
	for _, row := range a.behaviours {
		line(row.name, func(face string) string {
			short, _, _ := strings.Cut(a.rows[cell{row.name, face}], ":")
			return cmp.Or(short, "-")
		})
	}
}
