// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Limits of a package. Ties say nothing about a package of few files: n files that form one
// package at all have n-1 ties or more, which is 2/n of all pairs (decision 53).
const (
	mostLines = 2000 // without tests and generated code
	mostTies  = 35   // percent of all pairs of files, exclusive
	fewFiles  = 6

	mostHeaderLines = 400 // of a file of the datapath, which has one subject
)

// split lists the packages that are above a limit, with what they have today. The test fails when one
// of them grows, and when one no longer needs its entry. cmd/fairlead is one small file a command;
// those of six to eight files are small, and decision 53 says why they may have more ties.
var split = map[string]struct{ lines, ties int }{
	"cmd/fairlead": {4600, 0},

	"bench":                     {0, 66},
	"bench/load":                {0, 47},
	"bench/report":              {0, 66},
	"control/cluster/kv":        {0, 66},
	"control/cluster/members":   {0, 66},
	"control/cni":               {0, 71},
	"control/desired":           {0, 66},
	"control/desired/txn":       {0, 64},
	"control/dns":               {0, 46},
	"control/dockerplugin":      {0, 60},
	"control/engine":            {0, 50},
	"control/instance":          {0, 40},
	"control/peers":             {0, 50},
	"control/reconcile/device":  {0, 73},
	"control/reconcile/entries": {0, 40},
	"control/resource":          {0, 42},
	"loader":                    {0, 40},
	"loader/hook":               {0, 73},
}

// checkLimit compares a package's figure with its limit, or with today's if it is to be split.
func checkLimit(t *testing.T, p pkg, what string, have, limit, today int) {
	t.Helper()
	switch {
	case today == 0 && have > limit:
		t.Errorf("%s has %d %s, want at most %d: split it where few files use each other", p.rel(), have, what, limit)
	case today != 0 && have > today:
		t.Errorf("%s has %d %s, more than the %d it had: split it", p.rel(), have, what, today)
	case today != 0 && have <= limit:
		t.Errorf("%s has %d %s: delete its entry of the list of packages to split", p.rel(), have, what)
	}
}

func TestSizes(t *testing.T) {
	for _, p := range list(t) {
		if match(laboratories, p.rel()) {
			continue
		}
		lines := 0
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(text, []byte("\n// Code generated ")) && !bytes.HasPrefix(text, []byte("// Code generated ")) {
				lines += bytes.Count(text, []byte("\n"))
			}
		}
		checkLimit(t, p, "lines", lines, mostLines, split[p.rel()].lines)
	}
}

// The datapath is divided into headers, one a subject.
func TestHeaderSizes(t *testing.T) {
	for _, s := range cSources(t) {
		text, err := os.ReadFile(filepath.Join(root(t), "bpf", s.name))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("\n")); n > mostHeaderLines {
			t.Errorf("bpf/%s has %d lines, want at most %d: split it by subject", s.name, n, mostHeaderLines)
		}
	}
}

// TestTies bounds the share of pairs of files of a package in which one uses what the other
// declares: a package above it has no inner structure that a reader could rely on.
func TestTies(t *testing.T) {
	exports := exportData(t)
	for _, p := range list(t) {
		if match(laboratories, p.rel()) {
			continue
		}
		files := handwritten(p)
		if len(files) < fewFiles {
			continue
		}
		uses := fileUses(t, p, exports)
		tied, possible := 0, len(files)*(len(files)-1)/2
		for i, a := range files {
			for _, b := range files[i+1:] {
				if uses[[2]string{a, b}] || uses[[2]string{b, a}] {
					tied++
				}
			}
		}
		share := 100 * tied / max(possible, 1)
		t.Logf("%-24s %2d files, %3d of %3d pairs tied: %d %%", p.rel(), len(files), tied, possible, share)
		checkLimit(t, p, "percent of its pairs of files tied", share, mostTies-1, split[p.rel()].ties)
	}
}

// handwritten returns a package's files without generated ones and without the one that holds
// only the package's comment.
func handwritten(p pkg) []string {
	var files []string
	for _, name := range p.GoFiles {
		if name != "doc.go" && !strings.HasSuffix(name, "_bpfel.go") {
			files = append(files, name)
		}
	}
	return files
}

// fileUses reports for pairs of a package's files whether the first uses a package-level
// identifier, a method or a field that the second declares.
func fileUses(t *testing.T, p pkg, exports map[string]string) map[[2]string]bool {
	t.Helper()
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	lookup := func(path string) (io.ReadCloser, error) {
		name := exports[path]
		if name == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(name)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	made, err := conf.Check(p.ImportPath, fset, parsed, info)
	if err != nil {
		t.Fatal(err)
	}
	uses := map[[2]string]bool{}
	for id, obj := range info.Uses {
		if obj.Pkg() != made || !declaredOutside(made, obj) {
			continue
		}
		from := filepath.Base(fset.Position(id.Pos()).Filename)
		to := filepath.Base(fset.Position(obj.Pos()).Filename)
		if from != to {
			uses[[2]string{from, to}] = true
		}
	}
	return uses
}

// declaredOutside reports whether an object belongs to the package rather than to one function.
func declaredOutside(made *types.Package, obj types.Object) bool {
	switch obj := obj.(type) {
	case *types.Var:
		return obj.IsField() || obj.Parent() == made.Scope()
	case *types.Func:
		return true
	default:
		return obj.Parent() == made.Scope()
	}
}

// exportData returns the file of compiled types of every package that the module depends on.
func exportData(t *testing.T) map[string]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-trimpath", "-export", "-deps", "-json=ImportPath,Export", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -export: %v", err)
	}
	exports := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return exports
		case err != nil:
			t.Fatalf("go list's answer: %v", err)
		}
		exports[p.ImportPath] = p.Export
	}
}
