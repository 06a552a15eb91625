// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The ten lines of docs/docker.md work as printed.
func docsAsPrinted(d *docker) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "docker.md"))
	if err != nil {
		d.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Ten lines\n")
	_, block, _ := strings.Cut(section, "\n```\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	script := "set -e\nalias docker='/usr/bin/docker -H unix://" + socket + "'\n"
	commands := 0
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "# "); ok {
			script += command
			commands++
		}
	}
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	cmd := d.Command(ctx, "sh", "-c", "PATH=$PATH:"+filepath.Dir(d.Binary)+"\neval \"$1\"", "sh", script)
	cmd.Dir = d.Dir("docs")
	r, err := d.Host.RunCommand(cmd)
	if err != nil || r.Code != 0 || commands < 8 || strings.Count(r.Stdout, "hello\n") < 3 || !strings.Contains(r.Stdout, "0.0.0.0:18080->80/tcp") {
		d.Errorf("%d commands ended with status %d, %v\n%s", commands, r.Code, err, r.Output())
	}
}
