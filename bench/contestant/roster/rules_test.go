// SPDX-License-Identifier: Apache-2.0

package roster

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
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
		engine contestant.Contestant
		path   cases.Path
		rules  []captured
	}{
		{docker29(self), cases.Published, []captured{{"docker29.nft", docker29Rules, []string{"nft", "-s", "list", "ruleset"}, false}}},
		{docker20(self), cases.Published, []captured{{"docker20.iptables", docker20Rules, []string{"iptables-save"}, false}}},
		{dockerOverlay(self), cases.Overlay, []captured{
			{"swarm29.iptables", swarmRules, []string{"iptables-save"}, false},
			{"swarm29container.iptables", swarmContainerRules, []string{"iptables-save"}, true},
		}},
	} {
		t.Run(tc.engine.Name(), func(t *testing.T) { captureRules(t, tc.engine, tc.path, tc.rules) })
	}
}

// captured are rules that an engine makes.
type captured struct {
	file, have string
	list       []string // the command that lists them
	container  bool     // in the container's network namespace
}

// captureRules starts an engine with one container, which publishes a port if the network is on one host, and compares the rules.
func captureRules(t *testing.T, engine contestant.Contestant, path cases.Path, rules []captured) {
	w, err := topology.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	n, err := engine.Build(t.Context(), w, path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ports := 1
	if path == cases.Overlay {
		ports = 0
	}
	if _, err := n.Container(t.Context(), "server", ports); err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		command := r.list
		if r.container {
			command = append(enter(t, n), r.list...)
		}
		out, err := w.On(w.Host).Run(t.Context(), command...)
		if err != nil {
			t.Fatal(err)
		}
		got := normalRules(out)
		if *update {
			if err := os.WriteFile(filepath.Join("rules", r.file), []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(r.have, got); diff != "" {
			t.Errorf("rules/%s (-have +the engine's):\n%s", r.file, diff)
		}
	}
}

// enter returns the command that runs another in the network namespace of the server's container.
func enter(t *testing.T, n contestant.Network) []string {
	t.Helper()
	near := n.(swarmNetwork).dockerNetwork
	var server struct{ NetworkSettings struct{ SandboxKey string } }
	if err := near.Call(t.Context(), http.MethodGet, "/containers/server/json", nil, &server); err != nil {
		t.Fatal(err)
	}
	pids, err := descendants(near.daemon.Pid()) // the first is unshare
	if err != nil || len(pids) < 2 {
		t.Fatalf("processes of the engine: %v, %v", pids, err)
	}
	return []string{"nsenter", fmt.Sprintf("--target=%d", pids[1]), "--mount", "nsenter", "--net=" + server.NetworkSettings.SandboxKey}
}

var (
	bridgeName = regexp.MustCompile(`br-[0-9a-f]{12}`)
	elements   = regexp.MustCompile(`elements = \{([^}]*)\}`)
	comment    = regexp.MustCompile(`(?m)^#.*\n`)
	counter    = regexp.MustCompile(`(?m)^(:.*) \[\d+:\d+\]$`)
	resolver   = regexp.MustCompile(`(--to-destination 127\.0\.0\.11:|--sport )\d+`)
)

// normalRules replaces what differs each time: the bridge's name, the order of nft's
// elements, which depends on the name, the ports of the engine's DNS in a container, and iptables-save's counters and dated comments.
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
	rules = resolver.ReplaceAllString(rules, "${1}40053")
	rules = comment.ReplaceAllString(rules, "")
	rules = counter.ReplaceAllString(rules, "$1 [0:0]")
	return strings.TrimSpace(rules) + "\n"
}
