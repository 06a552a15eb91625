// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// An address of another device in a network's subnet is logged once.
func TestOverlapsAreTold(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	w.restart()
	p := w.plan()
	n := p.network("net", 7)
	w.apply(p)
	warned := func(want int) {
		t.Helper()
		w.resync()
		if got := strings.Count(log.String(), "device=docker0"); got != want {
			t.Errorf("logged %d times, want %d:\n%s", got, want, &log)
		}
	}
	warned(0)
	ip(t, "link", "add", "docker0", "type", "bridge")
	ip(t, "addr", "add", "192.0.2.1/24", "dev", "docker0")
	warned(0)
	ip(t, "addr", "add", n.Subnets[0].Gateway.String()+"/24", "dev", "docker0")
	warned(1)
	warned(1)
}
