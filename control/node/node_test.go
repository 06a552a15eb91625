// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// A path that is not a network namespace is refused before anything is created.
func TestNoNamespaceThere(t *testing.T) {
	for _, path := range []string{"/no/such", "/etc/passwd", "/etc/passwd/below", "/proc/self/ns/mnt"} {
		_, err := New(Config{}).CreateSandbox(t.Context(), model.SandboxSpec{Name: "box", NetNS: path})
		if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ip netns add") {
			t.Errorf("%s: %v, want a refusal that names the path and the remedy", path, err)
		}
	}
}

// The host's own namespace cannot be a sandbox, whatever the path.
func TestHostIsNoSandbox(t *testing.T) {
	handle, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	const own = "/proc/self/ns/net"
	link, mount := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "mount")
	if err := errors.Join(os.Symlink(own, link), os.WriteFile(mount, nil, 0o600), unix.Mount(own, mount, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	for _, path := range []string{own, fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), link, mount} {
		_, create := New(Config{Handle: handle}).CreateSandbox(t.Context(), model.SandboxSpec{Name: "box", NetNS: path})
		_, join := Engines{Handle: handle, Log: slog.New(slog.DiscardHandler)}.JoinEndpoint(t.Context(), "", "box", path)
		for _, err := range []error{create, join} {
			if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "host's own (name another") {
				t.Errorf("%s: %v, want a refusal that names the path and the remedy", path, err)
			}
		}
	}
}
