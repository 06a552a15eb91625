// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The ten lines of docs/podman.md work as printed.
func TestPodmanDocs(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "podman.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Ten lines\n")
	_, block, _ := strings.Cut(section, "\n```\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	script, commands := "set -e\ncd /root/clone\n", 0
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "# "); ok {
			script += command
			commands++
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	e.install(plugin(t), "root/clone/bin/fairlead-netavark")
	e.install(e.Binary, "usr/local/bin/fairlead")
	e.install(busybox, "bin/busybox")
	r := e.inside("sh", "-c", script)
	if r.Code != 0 || commands != 12 || strings.Count(r.Stdout, "hello\n") != 2 || !strings.Contains(r.Stdout, "0.0.0.0:18080->80/tcp, [::]:18080->80/tcp   web") {
		t.Errorf("%d commands ended with status %d\n%s", commands, r.Code, r.Output())
	}
	e.want(0)
}
