// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"errors"
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
