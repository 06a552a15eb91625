// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/desired/desiredtest"
	"github.com/fairlead-net/fairlead/control/model"
)

// The output of a program is removed with its sandbox, also if that was removed while no daemon ran. Other files stay.
func TestLogs(t *testing.T) {
	dir := t.TempDir()
	id := func(c string) string { return strings.Repeat(c, 64) }
	p := desiredtest.New()
	if err := os.Mkdir(filepath.Join(dir, logDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"a", "b", "c"} {
		if err := os.WriteFile(logPath(dir, id(c)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.Sandboxes[id(c)] = &model.Sandbox{ID: id(c), Name: c}
	}
	other := filepath.Join(dir, logDir, "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewLogs(dir, slog.New(slog.DiscardHandler))
	remain := func(want ...string) {
		t.Helper()
		var paths []string
		for _, c := range want {
			paths = append(paths, logPath(dir, id(c)))
		}
		got, err := filepath.Glob(filepath.Join(dir, logDir, "*"))
		if paths = append(paths, other); err != nil || !slices.Equal(got, paths) {
			t.Errorf("files are %v, %v; want %v", got, err, paths)
		}
	}
	delete(p.Sandboxes, id("a"))
	remain("a", "b", "c")
	l.Update(p.Snapshot())
	remain("b", "c")
	exited := *p.Sandboxes[id("b")]
	exited.Exited = true
	p.Sandboxes[id("b")] = &exited
	l.Update(p.Snapshot())
	remain("b", "c")
	delete(p.Sandboxes, id("b"))
	l.Update(p.Snapshot())
	remain("c")
}
