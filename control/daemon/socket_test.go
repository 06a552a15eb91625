// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(runVariable); dir != "" {
		os.Exit(runVerb(dir, os.Args[1]))
	}
	os.Exit(m.Run())
}

func TestListenAPI(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second finds the first one's socket
		l, err := listenAPI(filepath.Join(dir, "api.sock"))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "api.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o660 {
			t.Errorf("mode %o, want 660", got)
		}
		defer func() { _ = l.Close() }()
	}
}
