// SPDX-License-Identifier: Apache-2.0

package rtnl_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

func TestNetNSLifeIsIdempotent(t *testing.T) {
	rtnltest.New(t)
	path := filepath.Join(t.TempDir(), "a", "ns")
	if err := rtnl.RemoveNetNS(path); err != nil {
		t.Errorf("removing what never existed: %v", err)
	}
	if _, err := rtnl.OpenNetNS(path); !errors.Is(err, rtnl.ErrNoNetNS) {
		t.Errorf("open before it is created: %v, want ErrNoNetNS", err)
	}
	// An interrupted creation leaves a file that is not a mount point.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := rtnl.OpenNetNS(path); !errors.Is(err, rtnl.ErrNoNetNS) {
		t.Errorf("open a plain file: %v, want ErrNoNetNS", err)
	}
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	if err := rtnl.CreateNetNS(path); err != nil {
		t.Fatal(err)
	}
	first := inode()
	if err := rtnl.CreateNetNS(path); err != nil {
		t.Fatal(err)
	}
	if inode() != first {
		t.Error("a second creation replaced the namespace")
	}
	if _, err := rtnl.OpenNetNS("/proc/self/ns/uts"); !errors.Is(err, rtnl.ErrNoNetNS) {
		t.Errorf("open a UTS namespace: %v, want ErrNoNetNS", err)
	}
	for range 2 {
		if err := rtnl.RemoveNetNS(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file still exists: %v", err)
	}
}

func TestDoComesBackAndSurvivesGoexit(t *testing.T) {
	rtnltest.New(t)
	_, ns := rtnltest.NetNS(t)
	here, err := rtnl.CurrentNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	same := func(a, b *rtnl.NetNS) bool {
		x, err := a.Inode()
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Inode()
		if err != nil {
			t.Fatal(err)
		}
		return x == y
	}
	if err := ns.Do(func() error {
		now, err := rtnl.CurrentNetNS()
		if err != nil {
			return err
		}
		defer now.Close()
		if !same(now, ns) {
			t.Error("the function does not run in the namespace")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that did not return is reported as success")
	}
	now, err := rtnl.CurrentNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if !same(now, here) {
		t.Error("the caller's thread changed its namespace")
	}
}
