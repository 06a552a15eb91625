// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// tourBegins makes the world of the tour: the directories that it writes to are its own, and
// so are the processes it can kill. A reader waits until the daemon reports that it is ready;
// the tour does too, after each background command.
const tourBegins = `set -euo pipefail
mount --bind /usr/local/bin "$1"
PATH=$PATH:$1:/usr/local/sbin:/usr/sbin:/sbin
for dir in /run /usr/local/bin /var/lib /var/log; do mount -t tmpfs tour $dir; done
mkdir /var/lib/nginx /var/log/nginx
mount -t bpf tour /sys/fs/bpf
unset FAIRLEAD_HOST
sudo() { "$@"; }
serves() {
	for i in $(seq 100); do
		if fairlead status >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	echo 'the daemon does not serve'
	exit 1
}
`

// tourEnds checks that nothing is left.
const tourEnds = `
echo '$ what is left'
ls -d /sys/fs/bpf/fairlead* 2>/dev/null || :
find /run/fairlead 2>/dev/null || :
ip -details link show | grep fairlead: || :
ps -e -o comm,state | grep -E '^(fairlead|nginx) +[^Z]' || :
echo '$ that is all'
`

// Every command of the README's tour works as printed.
func TestTour(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{NoDaemon: true})
	script := tourBegins
	for _, command := range tour(t) {
		script += fmt.Sprintf("echo '$ %s'\n%s\n", strings.ReplaceAll(command, "'", `'\''`), command)
		if strings.HasSuffix(command, "&") {
			script += "serves\n"
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := world.Command(ctx, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
		"bash", "-c", script+tourEnds, "tour", l.Dir("local"))
	cmd.Dir = "../.."
	r, err := l.Host.RunCommand(cmd)
	if err != nil || r.Code != 0 || !strings.HasSuffix(r.Stdout, "$ what is left\n$ that is all\n") {
		l.Fatalf("the tour ended with status %d, %v\n%s\n%s", r.Code, err, r.Stdout, r.Stderr)
	}
	if !tracks(r.Stdout) {
		l.Errorf("ct ls shows nothing\n%s", r.Stdout)
	}
	asked, answered := strings.Count(script, ":8080/\n")+strings.Count(script, ":8081/\n"), strings.Count(r.Stdout, "Welcome to nginx!</title>")
	if asked != answered {
		l.Errorf("nginx was asked %d times and answered %d times\n%s", asked, answered, r.Stdout)
	}
}

// tracks reports whether the tour's `ct ls` printed a flow under its header.
func tracks(out string) bool {
	_, after, _ := strings.Cut(out, "$ sudo fairlead ct ls\n")
	list, _, _ := strings.Cut(after, "\n$ ")
	return strings.Contains(list, "10.77.0.1:8080")
}

// tour returns the commands of the README's five minutes.
func tour(t *testing.T) (commands []string) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Five minutes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for i, block := range strings.Split(section, "\n```\n") {
		if i%2 == 1 {
			commands = append(commands, strings.Split(block, "\n")...)
		}
	}
	if len(commands) < 20 {
		t.Fatalf("the README's tour has %d commands, want more: %q", len(commands), commands)
	}
	return commands
}
