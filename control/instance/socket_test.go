// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"os"
	"testing"
)

func TestListenAPI(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second finds the first one's socket
		l, err := Dirs{Run: dir}.ListenAPI()
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(Dirs{Run: dir}.Socket())
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o660 {
			t.Errorf("mode %o, want 660", got)
		}
		defer func() { _ = l.Close() }()
	}
}
