// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestReadSymbols(t *testing.T) {
	got := readSymbols("count published/rr/4 12.0\nsymbol ffffffff81000200 second\nsymbol ffffffff81000100 first\nsymbol none\n")
	if len(got) != 2 || got[0].name != "first" || got[1] != (symbol{0xffffffff81000200, "second"}) {
		t.Errorf("got %+v, want first and second by address", got)
	}
	if got := readSymbols("the guest has no such case\n"); got != nil {
		t.Errorf("got %+v, want nothing", got)
	}
}

func TestReadBlocks(t *testing.T) {
	symbols := []symbol{
		{0xffffffff81000100, "first"}, {0xffffffff81000200, "second"},
		{0xffffffffc0000000, "bpf_prog_0123456789abcdef_from_uplink"},
	}
	blocks := "0 ffffffff81000100 1000 9\n" + // warms up
		"1 ffffffff81000100 20 9\n1 ffffffff81000140 40 2\n" +
		"1 ffffffffc0000000 10 5\n1 400000 30 1\n1 ffffffff80000000 10 1\n"
	got, err := readBlocks(strings.NewReader(blocks), symbols, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := functions{"first": {26, 2}, "bpf:from_uplink": {5, 1}, userSpace: {3, 0}, "?": {1, 0}}
	for name, c := range want {
		if got[name] != c {
			t.Errorf("%s: got %+v, want %+v", name, got[name], c)
		}
	}
	if len(got) != len(want) || got.sum() != 35 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, wrong := range []string{"", "0 ffffffff81000100 1000 9\n", "1 ffffffff81000100\n"} {
		if got, err := readBlocks(strings.NewReader(wrong), symbols, 10); err == nil {
			t.Errorf("blocks %q: got %+v, want an error", wrong, got)
		}
	}
}

func TestWriteFunctions(t *testing.T) {
	limit := functions{"send": {100, 2}, "gone": {7, 1}}
	f := functions{"send": {130, 3}, "bpf:from_uplink": {50, 1}, "little": {0.2, 0.01}}
	var b strings.Builder
	if err := f.write(&b, limit); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"instructions beyond calls", "50 +50 1.0 bpf:from_uplink", "130 +30 3.0 send", "0 -7 0.0 gone"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}
