// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	// treeRow matches a row of the table: the directory, its contents, its imports.
	treeRow = regexp.MustCompile("(?m)^\\| `([^`]+?)/?` \\| .* \\| (.*) \\|$")
	quoted  = regexp.MustCompile("`([^`]+)`")
)

// The table in docs/architecture.md matches what is enforced here. A row covers its directory
// and the directories below it without a row of their own; imports among these are left out.
func TestDocumentedImports(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented, enforced := map[string][]string{}, map[string][]string{}
	for _, row := range treeRow.FindAllStringSubmatch(string(text), -1) {
		documented[row[1]] = nil
		for _, name := range quoted.FindAllStringSubmatch(row[2], -1) {
			documented[row[1]] = append(documented[row[1]], name[1])
		}
	}
	for name, imports := range allowed {
		dir := rowOf(documented, name)
		for _, imp := range imports {
			if rowOf(documented, imp) != dir {
				enforced[dir] = append(enforced[dir], imp)
			}
		}
	}
	if diff := cmp.Diff(sets(enforced), sets(documented), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("allowed imports: enforced (-) and docs/architecture.md (+) differ\n%s", diff)
	}
}

// rowOf returns the directory whose row covers a package, or "" if there is none.
func rowOf(rows map[string][]string, name string) string {
	for dir := strings.TrimSuffix(name, "/..."); dir != "."; dir = filepath.Dir(dir) {
		if _, ok := rows[dir]; ok {
			return dir
		}
	}
	return ""
}

// sets returns the lists sorted, without duplicates and without empty lists.
func sets(lists map[string][]string) map[string][]string {
	out := map[string][]string{}
	for key, list := range lists {
		if len(list) > 0 {
			out[key] = slices.Compact(slices.Sorted(slices.Values(list)))
		}
	}
	return out
}

var (
	dropReason = regexp.MustCompile(`(?m)^\tDROP_(\w+) = [1-9]`)
	reasonRow  = regexp.MustCompile("(?m)^\\| (`[a-z_, `]+`) \\|")
)

// The table of drop reasons in docs/operations.md has each reason of bpf/lib/drop.h, and no others.
func TestDropReasons(t *testing.T) {
	header, err1 := os.ReadFile(filepath.Join(root(t), "bpf", "lib", "drop.h"))
	page, err2 := os.ReadFile(filepath.Join(root(t), "docs", "operations.md"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n### Drop reasons\n")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for _, row := range reasonRow.FindAllStringSubmatch(table, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			documented[strings.Trim(name, "`")] = true
		}
	}
	for _, reason := range dropReason.FindAllStringSubmatch(string(header), -1) {
		name := strings.ToLower(reason[1])
		if !documented[name] {
			t.Errorf("docs/operations.md has no row for the drop reason %s", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/operations.md has a row for %s, which is not a drop reason", name)
	}
}

var (
	// option matches the key of an option of networks where it is declared.
	option = regexp.MustCompile(`(?m)^\tOpt\w+ += "([^"]+)"`)
	// guidePath matches a file or directory in backquotes. Placeholders are in capitals.
	guidePath = regexp.MustCompile("`([a-z][a-z0-9_./-]*(?:/[a-z0-9_.-]*|\\.(?:go|h|c|md)))`")
)

// The pages of users name each option of networks: Docker's in the list of what becomes of Docker's features, and
// all others.
func TestDocumentedOptions(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(pages, filepath.Join(root(t), "control", "model", "model.go")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(path)] = string(text)
	}
	keys := option.FindAllStringSubmatch(texts["model.go"], -1)
	if len(keys) < 20 {
		t.Fatalf("found %d options only", len(keys))
	}
	for _, m := range keys {
		if key, docker := strings.CutPrefix(m[1], "com.docker.network."); docker {
			if !strings.Contains(texts["docker-parity.md"], key) {
				t.Errorf("docs/docker-parity.md does not say whether it supports option %s", m[1])
			}
			continue
		}
		documented := false
		for _, page := range pages {
			documented = documented || strings.Contains(texts[filepath.Base(page)], "`"+m[1]) || strings.Contains(texts[filepath.Base(page)], " "+m[1])
		}
		if !documented {
			t.Errorf("no page of docs/ names option %s", m[1])
		}
	}
}

// Each file and directory that CONTRIBUTING.md names exists.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	err = filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(root(t), path)
		if err != nil || relErr != nil {
			return errors.Join(err, relErr)
		}
		known[rel] = true
		known[filepath.Base(rel)] = true // within a step, of the directory that it began with
		if rel == ".git" || rel == "bin" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, lists, _ := strings.Cut(string(text), "\n## Where things go\n")
	lists, _, _ = strings.Cut(lists, "\n## Commits\n")
	paths := guidePath.FindAllStringSubmatch(lists, -1)
	if len(paths) < 40 {
		t.Fatalf("found %d paths only", len(paths))
	}
	for _, m := range paths {
		if !known[strings.TrimSuffix(m[1], "/")] {
			t.Errorf("CONTRIBUTING.md names %s, which does not exist", m[1])
		}
	}
}
