// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	clause    = regexp.MustCompile(`(?m)^package (\w+)$`)
	namedTest = regexp.MustCompile("`(\\w+\\.Test\\w+)`")
	parityRow = regexp.MustCompile("^\\| .+ \\| (works|differs|refused|not yet) \\| .*\\| .+ \\|\n$")
)

// The table of promises in test/README.md names existing tests in every row, and every
// scenario is the test of a promise.
func TestPromises(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root(t), "test", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	exist, named := tests(t), map[string]bool{}
	for line := range strings.Lines(string(readme)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise ") {
			continue
		}
		found := namedTest.FindAllStringSubmatch(line, -1)
		if len(found) == 0 {
			t.Errorf("test/README.md names no test in the row %q", line)
		}
		for _, match := range found {
			named[match[1]] = true
			if !exist[match[1]] {
				t.Errorf("test/README.md names %s, which does not exist", match[1])
			}
		}
	}
	for name := range exist {
		if strings.HasPrefix(name, "scenario.") && !named[name] {
			t.Errorf("%s has no row in test/README.md", name)
		}
	}
}

// The tests that the pages name exist, and each row of their tables of faults, of other
// projects' tests and of Docker's features has text in its last column.
func TestNamedTests(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root(t), "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	exist := tests(t)
	for _, path := range pages {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := "docs/" + filepath.Base(path)
		for _, match := range namedTest.FindAllStringSubmatch(string(page), -1) {
			if !exist[match[1]] {
				t.Errorf("%s names %s, which does not exist", name, match[1])
			}
		}
		if name != "docs/faults.md" && name != "docs/checklist.md" && name != "docs/docker-parity.md" {
			continue
		}
		for line := range strings.Lines(string(page)) {
			cells := strings.Split(strings.TrimSpace(line), "|")
			if cells[0] == "" && len(cells) > 2 && strings.TrimSpace(cells[len(cells)-2]) == "" {
				t.Errorf("%s does not mention a test in the row %q", name, line)
			}
		}
	}
}

// Each attack of docs/faults.md has a test and a control.
func TestControlsOfAttacks(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	faults, controls, found := strings.Cut(string(page), "\n## Controls\n")
	if !found {
		t.Fatal("docs/faults.md has no section Controls")
	}
	var attacks []string
	for i := range 8 {
		attacks = append(attacks, fmt.Sprint("S", i+1))
	}
	for i := range 5 {
		attacks = append(attacks, fmt.Sprint("N", i+11))
	}
	for _, row := range attacks {
		for what, text := range map[string]string{"test": faults, "control": controls} {
			_, line, found := strings.Cut(text, "\n| "+row+" | ")
			line, _, _ = strings.Cut(line, "\n")
			if cells := strings.Split(line, "|"); !found || len(cells) < 4 || !namedTest.MatchString(cells[1]) || strings.TrimSpace(cells[2]) == "" {
				t.Errorf("docs/faults.md names no %s of %s, or not what it showed", what, row)
			}
		}
	}
}

// tests returns all tests of the module as package.Test.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pkg := clause.FindStringSubmatch(string(text))
		if pkg == nil {
			t.Errorf("%s has no package clause", path)
			return nil
		}
		for _, match := range testFunc.FindAllStringSubmatch(string(text), -1) {
			found[strings.TrimSuffix(pkg[1], "_test")+"."+match[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Each row of docs/docker-parity.md has one of the four words of that page, and names a test or
// says that there is none.
func TestDockerParity(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "docker-parity.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Docker ") {
			continue
		}
		rows++
		if !parityRow.MatchString(line) {
			t.Errorf("docs/docker-parity.md has none of the words works, differs, refused and not yet in the row %q", line)
		}
		if !strings.HasSuffix(line, "| none |\n") && !namedTest.MatchString(line[strings.LastIndex(line[:len(line)-3], "|"):]) {
			t.Errorf("docs/docker-parity.md names neither a test nor none in the row %q", line)
		}
	}
	if rows < 100 {
		t.Errorf("docs/docker-parity.md has %d rows, want 100 or more", rows)
	}
}
