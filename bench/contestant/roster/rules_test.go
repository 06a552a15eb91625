// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/topology"
)

var update = flag.Bool("update", false, "write the rules that the engines install")

// The rules that bridges are counted with are those that the real engines make. When a
// version of an engine makes others, -update captures them, and make bench-count has to run
// again.
func TestEnginesRules(t *testing.T) {
	self := filepath.Join(t.TempDir(), "fairlead")
	build := exec.Command("go", "build", "-trimpath", "-o", self, "github.com/fairlead-net/fairlead/cmd/fairlead")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fairlead: %v\n%s", err, out)
	}
	for _, tc := range []struct {
		engine docker
		file   string
		have   string
		list   []string
	}{
		{docker29(self), "docker29.nft", docker29Rules, []string{"nft", "-s", "list", "ruleset"}},
		{docker20(self), "docker20.iptables", docker20Rules, []string{"iptables-save"}},
	} {
		t.Run(tc.engine.name, func(t *testing.T) {
			got := captureRules(t, tc.engine, tc.list)
			if *update {
				if err := os.WriteFile(filepath.Join("rules", tc.file), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(tc.have, got); diff != "" {
				t.Errorf("rules/%s (-have +the engine's):\n%s", tc.file, diff)
			}
		})
	}
}

// captureRules starts an engine with one container that publishes a port, and lists the
// rules.
func captureRules(t *testing.T, engine docker, list []string) string {
	t.Helper()
	w, err := topology.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	n, err := engine.Build(t.Context(), w, cases.Published)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := n.Container(t.Context(), "server", 1); err != nil {
		t.Fatal(err)
	}
	out, err := w.On(w.Host).Run(t.Context(), list...)
	if err != nil {
		t.Fatal(err)
	}
	return normalRules(out)
}

var (
	bridgeName = regexp.MustCompile(`br-[0-9a-f]{12}`)
	elements   = regexp.MustCompile(`elements = \{([^}]*)\}`)
	comment    = regexp.MustCompile(`(?m)^#.*\n`)
	counter    = regexp.MustCompile(`(?m)^(:.*) \[\d+:\d+\]$`)
)

// normalRules replaces what differs each time: the bridge's name, the order of nft's
// elements, which depends on the name, and iptables-save's counters and dated comments.
func normalRules(rules string) string {
	rules = bridgeName.ReplaceAllString(rules, "br0")
	rules = elements.ReplaceAllStringFunc(rules, func(list string) string {
		var sorted []string
		for element := range strings.SplitSeq(elements.FindStringSubmatch(list)[1], ",") {
			sorted = append(sorted, strings.TrimSpace(element))
		}
		slices.Sort(sorted)
		return "elements = { " + strings.Join(sorted, ", ") + " }"
	})
	rules = comment.ReplaceAllString(rules, "")
	rules = counter.ReplaceAllString(rules, "$1 [0:0]")
	return strings.TrimSpace(rules) + "\n"
}
