// SPDX-License-Identifier: Apache-2.0

package enter

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

func TestStartInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making namespaces needs root")
	}
	ns := filepath.Join(t.TempDir(), "ns")
	if err := rtnl.CreateNetNS(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rtnl.RemoveNetNS(ns); err != nil {
			t.Error(err)
		}
	})
	look := func(at Place) string {
		t.Helper()
		var out bytes.Buffer
		cmd := exec.Command("sh", "-c", "stat -Lc %i /proc/self/ns/net; cat /proc/sys/kernel/hostname")
		cmd.Stdout = &out
		if err := Start(cmd, at); err != nil {
			t.Fatalf("%+v: %v", at, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	inode := func(path string) string {
		out, err := exec.Command("stat", "-Lc", "%i", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	inside, home := inode(ns), inode("/proc/self/ns/net")
	for _, tc := range []struct {
		at   Place
		want string
	}{
		{Place{NetNS: ns}, inside + name + "\n"},
		{Place{NetNS: ns, Hostname: "fairlead-test"}, inside + "fairlead-test\n"},
		{Place{DaemonPid: os.Getpid()}, home + name + "\n"},
	} {
		if got := look(tc.at); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.at, got, tc.want)
		}
	}
	if now, err := os.Hostname(); err != nil || now != name {
		t.Errorf("own host name became %q, %v", now, err)
	}
	if got := inode("/proc/self/ns/net"); got != home {
		t.Errorf("own namespace became %q", got)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/no/such/ns"} {
		err := Start(exec.Command("true"), Place{NetNS: path, DaemonPid: os.Getpid()})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
