// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOneCommentPerPackage(t *testing.T) {
	for _, p := range list(t) {
		var with []string
		for _, name := range p.GoFiles {
			mode := parser.PackageClauseOnly | parser.ParseComments
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, mode)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				with = append(with, name)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("package %s: want one package comment, found %d %v", p.rel(), len(with), with)
		}
	}
}

func TestLicenceHeaders(t *testing.T) {
	dir := root(t)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); name == ".git" || name == "bin" || name == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		switch filepath.Ext(path) {
		case ".go", ".c", ".h", ".sh":
		default:
			return nil
		}
		return checkLicence(t, dir, path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkLicence requires the identifier in the first line, or just below a build constraint or
// an interpreter line.
func checkLicence(t *testing.T, dir, path string) error {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(text, []byte("// Code generated ")) {
		return nil
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	want := "SPDX-License-Identifier: Apache-2.0"
	if strings.HasPrefix(rel, "bpf/") {
		want = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
	}
	lines := strings.SplitN(string(text), "\n", 4)
	found := strings.Contains(lines[0], want)
	if strings.HasPrefix(lines[0], "#!") || strings.HasPrefix(lines[0], "//go:build") {
		found = strings.Contains(strings.Join(lines[:min(3, len(lines))], "\n"), want)
	}
	if !found {
		t.Errorf("%s: want %q at its top", rel, want)
	}
	return nil
}
