// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/test/lab"
)

// Root without a capability that everything depends on, as in a container, is refused in one line, and nothing is made. Doctor
// reports it among the rest.
func TestMissingCapabilities(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{NoDaemon: true})
	for _, name := range []string{"net_admin", "sys_admin"} {
		args := []string{"--bounding-set", "-" + name, "--inh-caps", "-" + name, l.Binary}
		for _, command := range [][]string{l.DaemonArgs(), {"cleanup"}} {
			r := l.Run(l.Host, "setpriv", append(args, command...)...)
			want := "fairlead: fairlead " + command[0] + " needs CAP_" + strings.ToUpper(name) + ", which root lacks here ("
			if r.Code != 1 || !strings.HasPrefix(r.Stderr, want) || strings.Count(r.Stderr, "\n") != 1 {
				t.Errorf("%s without %s: status %d, %q", command[0], name, r.Code, r.Output())
			}
		}
		if r := l.Run(l.Host, "setpriv", append(args, "doctor")...); r.Code != 1 || !strings.Contains(r.Stdout, "capabilities: this process lacks") ||
			!strings.Contains(r.Stdout, "CAP_"+strings.ToUpper(name)) {
			t.Errorf("doctor without %s: status %d, %q", name, r.Code, r.Output())
		}
	}
	if all := l.Devices("fairlead:"); len(all) != 0 {
		t.Errorf("devices %v", all)
	}
}
