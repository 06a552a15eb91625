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
func tenLines(d *docker) {
	out := d.printed("Ten lines")
	if strings.Count(out, "hello\n") < 3 || !strings.Contains(out, "0.0.0.0:18080->80/tcp") {
		d.Errorf("the commands said\n%s", out)
	}
}

// And so do those of Compose, and their file.
func compose(d *docker) {
	out := d.printed("Compose")
	if strings.Count(out, "hello\n") != 3 || strings.Count(out, "0.0.0.0:18080->80/tcp") != 1 {
		d.Errorf("the commands said\n%s", out)
	}
}

// And so do those that move running containers over, and back.
func moves(d *docker) {
	d.docker("network", "create", "web")
	d.docker("run", "-d", "--name", "shop", "--network", "web", "--network-alias", "store", "-p", "18080:80", image)
	d.docker("run", "-d", "--name", "stock", "--network", "web", image)
	d.docker("create", "--name", "stopped", "--network", "web", image)
	d.printed("Moving over, and back")
	driver := d.docker("network", "inspect", "--format", "{{.Driver}}", "web")
	networks := d.docker("inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", "shop", "stock", "stopped")
	if driver != "fairlead" || networks != "web\nweb\nweb" {
		d.Errorf("the containers are in %q, whose driver is %s", networks, driver)
	}
	d.docker("start", "stopped")
	d.docker("restart", "-t", "0", "shop")
	d.answers()
	for _, from := range []string{"stock", "stopped"} {
		d.docker("exec", from, "/bin/busybox", "wget", "-qO-", "http://store/cgi-bin/index.cgi")
	}
	d.docker("rm", "-f", "shop", "stock", "stopped")
	d.docker("network", "rm", "web")
}

// printed runs the commands of a section of docs/docker.md: the lines with a prompt in
// its blocks. A block that begins with a comment is the file that this names. It
// returns what the commands wrote to stdout.
func (d *docker) printed(title string) string {
	d.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "docker.md"))
	if err != nil {
		d.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	dir := d.Dir(title)
	script := "set -e\nalias docker='/usr/bin/docker -H unix://" + socket + "'\n"
	commands := 0
	for i, block := range strings.Split(section, "```\n") {
		if i%2 == 0 {
			continue
		}
		if name, file, ok := strings.Cut(block, "\n"); ok && strings.HasPrefix(name, "# file ") {
			if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(name, "# file ")), []byte(file), 0o644); err != nil {
				d.Fatal(err)
			}
			continue
		}
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "# "); ok {
				script += command
				commands++
			} else if more, ok := strings.CutPrefix(line, "> "); ok {
				script += more
			}
		}
	}
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	cmd := d.Command(ctx, "sh", "-c", "PATH=$PATH:"+filepath.Dir(d.Binary)+"\neval \"$1\"", "sh", script)
	cmd.Dir = dir
	r, err := d.Host.RunCommand(cmd)
	if err != nil || r.Code != 0 || commands < 5 {
		d.Errorf("%d commands ended with status %d, %v\n%s", commands, r.Code, err, r.Output())
	}
	return r.Stdout
}
