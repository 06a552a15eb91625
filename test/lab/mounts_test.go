// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Changes on the host are reported, changes on the machine are not.
func TestMounts(t *testing.T) {
	kept := t.TempDir()
	if err := unix.Mount("kept", kept, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(kept, 0)
	Neighbours(t)
	l := &Lab{TB: t, dir: t.TempDir(), history: new(history)}
	l.Host = l.NewHost("host")
	l.inherited = readMounts(t, l.mountinfo())
	want := func(wantMade, wantLost string) {
		t.Helper()
		made, lost := l.Mounts()
		if !holds(made, wantMade) || !holds(lost, wantLost) {
			t.Errorf("made %q, lost %q; want %q, %q", made, lost, wantMade, wantLost)
		}
	}
	time.Sleep(500 * time.Millisecond) // mounts come and go meanwhile
	want("", "")
	made := l.Dir("made")
	l.Must(l.Host, "mount", "-t", "tmpfs", "made", made)
	want(made, "")
	l.Must(l.Host, "umount", made)
	want("", "")
	l.Must(l.Host, "umount", kept)
	want("", kept)
	if err := unix.Unmount(kept, 0); err != nil {
		t.Fatal(err)
	}
	want("", "")
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
}

// holds reports whether the list is one line that contains the text, or is empty if the text
// is.
func holds(list []string, text string) bool {
	if text == "" {
		return len(list) == 0
	}
	return len(list) == 1 && strings.Contains(list[0], " "+text+" ")
}
