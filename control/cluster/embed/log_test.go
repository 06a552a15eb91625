// SPDX-License-Identifier: Apache-2.0

package embed

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
)

// An etcd that warns of every request does not fill the daemon's log, and other messages are still logged.
func TestLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	var closing atomic.Bool
	log := newLogger(slog.New(slog.NewTextHandler(&out, nil)), &closing)
	for i := range 1000 {
		log.Warn("took too long", zap.Int("request", i))
	}
	log.Info("not for operators")
	log.Error("disk full")
	for text, want := range map[string]int{"took too long": logged, "request=0": 1, "not for operators": 0, "disk full": 1} {
		if got := strings.Count(out.String(), text); got != want {
			t.Errorf("%q was logged %d times, want %d:\n%s", text, got, want, out.String())
		}
	}
}
