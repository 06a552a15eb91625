// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// The root cgroup is found: not at a mount that another mount hides, in preference to a partial
// mount, and by file handle from a cgroup namespace that sees only a part.
func TestPickCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	root, err := Cgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	part, err := os.MkdirTemp(root.Name(), "fl-loader-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(part)
	at := func(points ...string) (mounts []bpffs.Mount) {
		for _, p := range points {
			mounts = append(mounts, bpffs.Mount{Root: "/", Point: p, Type: "cgroup2", Source: "cgroup2"})
		}
		return mounts
	}
	hidden := t.TempDir() // not a cgroup2
	for name, mounts := range map[string][]bpffs.Mount{
		"root": at(root.Name()), "hidden": at("/no/such", hidden, root.Name()), "part first": at(part, root.Name()),
		"root first": at(root.Name(), part), "part alone": at(hidden, part),
	} {
		f, err := pickCgroup(mounts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Ino != rootCgroup {
			t.Errorf("%s: %s is not the root, or %v", name, f.Name(), err)
		}
		f.Close()
	}
	// Without the capability to open handles only the part is found, and recognised as such.
	without := make(chan string)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		without <- pickWithout(at(part))
	}()
	if got := <-without; got != part {
		t.Errorf("without CAP_DAC_READ_SEARCH: %s, want %s", got, part)
	}
	for name, mounts := range map[string][]bpffs.Mount{"none": nil, "hidden": at(hidden), "other": {{Root: "/", Point: root.Name(), Type: "cgroup", Source: "cgroup"}}} {
		if f, err := pickCgroup(mounts); !errors.Is(err, ErrNoCgroup) {
			t.Errorf("%s: %v, %v, want no cgroup", name, f, err)
		}
	}
}

// pickWithout calls pickCgroup on a thread that drops a capability. It returns the path of the
// cgroup, which is not the root, or a description of the error.
func pickWithout(mounts []bpffs.Mount) string {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err.Error()
	}
	data[0].Effective &^= 1 << unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err.Error()
	}
	f, err := pickCgroup(mounts)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Ino == rootCgroup {
		return fmt.Sprint("the root, or ", err)
	}
	return f.Name()
}
