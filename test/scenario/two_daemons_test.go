// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// A second daemon in the host's network namespace would treat the devices of the first as
// leftovers, and so would a cleanup. Both are refused, and the network of the first is not
// affected.
func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	web := network(l, "web")
	a := l.Sandbox("anna", "--network", web)
	b := l.Sandbox("ben", "--network", web)
	devices := fmt.Sprint(l.Devices("fairlead:"))
	other := l.Dir("other")
	dirs := []string{
		"--state-dir", filepath.Join(other, "state"), "--run-dir", filepath.Join(other, "run"), "--bpf-dir", filepath.Join(other, "bpf"),
	}
	texts := []string{fmt.Sprintf("process %d, --run-dir", l.Daemon.Pid()), "stop it first"}
	for range 2 { // a refusal leaves nothing behind that would affect the next cleanup
		l.Refused(1, texts, append([]string{"daemon", "--metrics-listen", ""}, dirs...)...)
		l.Refused(1, texts, append([]string{"cleanup"}, dirs...)...)
	}
	l.Refused(1, texts, "cleanup", "--run-dir", filepath.Join(other, "run"), "--bpf-dir", l.Dir("bpf"))
	if got := fmt.Sprint(l.Devices("fairlead:")); got != devices {
		l.Errorf("devices %s after the refusals, want %s", got, devices)
	}
	for _, address := range []string{b.IP4.String(), b.IP6.String()} {
		l.Ping(a.Host, address)
	}
	c := l.Sandbox("cleo", "--network", web)
	l.Ping(c.Host, a.IP4.String())

	l.StopDaemon() // the next one does not leave its pins behind
	l.Refused(1, []string{l.Dir("bpf"), "give that as --bpf-dir", "fairlead cleanup"}, l.DaemonArgs("--bpf-dir", filepath.Join(other, "bpf"))...)
	l.StartDaemon()
	l.Ping(c.Host, a.IP4.String())
}
