// SPDX-License-Identifier: Apache-2.0

package arch_test

import (
	"bufio"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// A phrase is an expression that docs/style.md rejects. except, when set, matches the lines
// in which the expression is right.
type phrase struct {
	name   string
	reject *regexp.Regexp
	except *regexp.Regexp
}

var phrases = []phrase{
	{
		"who (for a program or a packet)",
		regexp.MustCompile(`\b([Ww]hoever|Who|who)\b`),
		regexp.MustCompile(`\b([Uu]sers?|[Oo]perators?|[Pp]eople|[Pp]erson|[Aa]nyone|[Aa]nybody|[Ss]omebody|[Ee]verybody|` +
			`[Nn]obody|[Cc]ontributors?|[Rr]eaders?|[Mm]aintainers?|[Aa]ttackers?|[Oo]wners?),? who\b`),
	},
	{"anew", regexp.MustCompile(`\b[Aa]new\b`), nil},
	{"One that", regexp.MustCompile(`\bOne (that|which|who)\b`), nil},
	{"is told", regexp.MustCompile(`\b(is|are|was|were|be|been|being) told\b`), nil},
	{"led to", regexp.MustCompile(`\b(led|leads?) to\b`), nil},
	{"is no X", regexp.MustCompile(`\b([Ii]t|which|that|[Tt]his|he|what|one) (is|are) no [a-z]`), regexp.MustCompile(`\bno longer\b`)},
	{
		"is an engine's",
		regexp.MustCompile(`\b(is|are|was|were|be) (a |an |the )?(container )?(engine|runtime|stack|host|daemon|kernel)'s?( |[.,;:)]|$)`),
		regexp.MustCompile(`\b(is|are|was|were|be) (a |an |the )?(container )?(engine|runtime|stack|host|daemon|kernel)('s ([a-z]|ID\b)|[ .,;:)]|$)`),
	},
	{"failed to (in an error)", regexp.MustCompile(`(Errorf|errors\.New)\("[^"]*\b([Ff]ailed to|[Uu]nable to|[Ee]rror while)\b`), nil},
}

// TestWords holds code, comments and documents to docs/style.md.
func TestWords(t *testing.T) {
	dir := root(t)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if unread(rel) {
				return fs.SkipDir
			}
			return nil
		}
		if !readable(rel) {
			return nil
		}
		return checkWords(t, path, rel)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func unread(rel string) bool {
	switch filepath.Base(rel) {
	case ".git", "bin", "testdata", "results":
		return true
	}
	return false
}

// readable reports whether a file is written by people for people.
func readable(rel string) bool {
	if rel == "docs/style.md" || rel == "test/arch/words_test.go" {
		return false
	}
	if strings.Contains(rel, "_bpfel.") {
		return false
	}
	switch filepath.Ext(rel) {
	case ".go", ".c", ".h", ".sh", ".md", ".service", ".socket", ".yaml", ".py":
		return true
	}
	return rel == "Makefile"
}

func checkWords(t *testing.T, path, rel string) error {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		for _, p := range rejected(lines.Text()) {
			t.Errorf("%s:%d: %q is not our style (docs/style.md): %s", rel, n, p, strings.TrimSpace(lines.Text()))
		}
	}
	return lines.Err()
}

// rejected returns the names of the phrases that a line has and should not have.
func rejected(line string) []string {
	var found []string
	for _, p := range phrases {
		rest := line
		if p.except != nil {
			rest = p.except.ReplaceAllString(line, "")
		}
		if p.reject.MatchString(rest) {
			found = append(found, p.name)
		}
	}
	return found
}

func TestRejectedWords(t *testing.T) {
	for _, line := range []string{
		"// Who asks is known by the source address.",
		"// whoever has the port keeps it",
		"// the device is made anew",
		"// One that does not come that far is given up.",
		"// the engine is told of it",
		"// packets are led to the backend",
		"// it is no uplink",
		"// the network is a container engine's",
		"// this device is the stack's, not ours",
		`return fmt.Errorf("failed to open: %w", err)`,
	} {
		if len(rejected(line)) == 0 {
			t.Errorf("accepted: %s", line)
		}
	}
	for _, line := range []string{
		"// Operators who run Docker know it.",
		"// there is no room in the table",
		"// remove removes what is no longer wanted",
		"// is the engine's name for the network",
		"// it is the runtime's ID of the container",
		"// it is the host's address",
		`return fmt.Errorf("open: %w", err)`,
	} {
		if found := rejected(line); len(found) > 0 {
			t.Errorf("rejected as %q: %s", found, line)
		}
	}
}

// wordsSince is the last commit before docs/style.md.
const wordsSince = "28ae0028e6aaf6434c02dbb6fe2a27590930b8a7"

// TestCommitSubjects holds the history since docs/style.md to its rule for subjects.
func TestCommitSubjects(t *testing.T) {
	dir := root(t)
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		t.Skip("no git history here: this is a source archive")
	}
	out, err := exec.Command("git", "-C", dir, "log", "--format=%h %s", wordsSince+"..HEAD").CombinedOutput()
	if err != nil {
		t.Fatalf("read the history (fetch it whole): %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		hash, subject, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n := utf8.RuneCountInString(subject); n > 72 {
			t.Errorf("%s: the subject has %d characters, 72 are allowed: %s", hash, n, subject)
		}
		if strings.Contains(subject, ";") {
			t.Errorf("%s: the subject has more than one idea: %s", hash, subject)
		}
		if found := rejected(subject); len(found) > 0 {
			t.Errorf("%s: %q is not our style: %s", hash, found, subject)
		}
	}
}
