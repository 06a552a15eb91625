// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/test/lab"
)

// When a table is full, the refusal names its flag, and nothing is left of what was refused:
// the host can use the ports immediately, and nothing needs a repair.
func TestFullTables(t *testing.T) {
	t.Parallel()
	modes(t, lab.Config{DaemonArgs: []string{"--max-publishes", "60", "--max-endpoints", "8"}}, func(t *testing.T, l *lab.Lab) {
		l.Fairlead("sandbox", "create", "-p", "8000-8019:80-99", "ben")
		before := l.Metrics().Repairs()
		l.Refused(1, []string{"fl_service is full (60 entries)", "larger --max-publishes"},
			"sandbox", "create", "-p", "9000-9199:9000-9199", "mary")
		for _, family := range []string{"tcp4", "tcp6"} {
			for _, port := range []string{"9000", "9100", "9199"} {
				listener, err := l.Host.Listen(family, net.JoinHostPort("", port))
				if err != nil {
					l.Errorf("the host cannot bind a port that was refused: %v", err)
					continue
				}
				listener.Close()
			}
		}
		time.Sleep(4500 * time.Millisecond) // the daemon checks everything twice
		if d := cmp.Diff(before, l.Metrics().Repairs()); d != "" {
			l.Errorf("repairs (-before +after):\n%s", d)
		}
		if log := l.Daemon.Output(); strings.Contains(log, "repaired what others broke") {
			l.Errorf("the daemon reports other causes:\n%s", log)
		}
		create := []string{"sandbox", "create", "--network", network(l, "web"), "extra"}
		for i := range 8 { // as many as there is room for, host ports included
			create[len(create)-1] = fmt.Sprint("extra", i)
			if l.Try(create...).Code != 0 {
				break
			}
		}
		l.Refused(1, []string{"is full (8 entries)", "larger --max-endpoints"}, create...)
	})
}
