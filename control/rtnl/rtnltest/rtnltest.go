// SPDX-License-Identifier: Apache-2.0

// Package rtnltest provides network namespaces for the tests of rtnl and of the packages below it.
package rtnltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// New returns a handle on a network namespace of the test's own. The test's goroutine
// stays in it on a locked thread.
func New(t *testing.T) *rtnl.Handle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	h, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// NetNS creates a namespace at a path of the test's own.
func NetNS(t *testing.T) (string, *rtnl.NetNS) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns", "sandbox")
	if err := rtnl.CreateNetNS(path); err != nil {
		t.Fatal(err)
	}
	ns, err := rtnl.OpenNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := rtnl.RemoveNetNS(path); err != nil {
			t.Error(err)
		}
	})
	return path, ns
}

// Read returns the devices, addresses and default routes of a namespace.
func Read(t *testing.T, ns *rtnl.NetNS) (links map[string]rtnl.Link, addrs map[string][]string, routes []rtnl.Route) {
	t.Helper()
	links, addrs = make(map[string]rtnl.Link), make(map[string][]string)
	err := ns.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		ls, err := c.Links()
		if err != nil {
			return err
		}
		as, err := c.Addrs()
		if err != nil {
			return err
		}
		for _, l := range ls {
			links[l.Name] = l
			for _, a := range as {
				if a.IfIndex == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast() {
					addrs[l.Name] = append(addrs[l.Name], a.Prefix.String())
				}
			}
		}
		for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, err := c.Routes(fam)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Dst.Bits() == 0 {
					routes = append(routes, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return links, addrs, routes
}

// In runs f with a socket in a namespace, on a thread there.
func In(t *testing.T, ns *rtnl.NetNS, f func(c *rtnl.Conn) error) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(c)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Run runs a program in the calling thread's namespace. The error contains its output.
func Run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// IP runs commands of iproute2 in the calling thread's namespace.
func IP(commands ...string) error {
	for _, c := range commands {
		if err := Run("ip", strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// Hold makes everything wait that opens a file, such as a network namespace by its path, until release is
// called or the test ends. awaited waits until something does.
func Hold(tb testing.TB, path string) (awaited func(), release func()) {
	tb.Helper()
	// The kernel forgets the inode of a namespace that nothing has open, and a mark with it.
	pin, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("hold %s: %v", path, err)
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	if err != nil {
		tb.Fatalf("hold %s: %v", path, err)
	}
	release = sync.OnceFunc(func() { // the kernel then lets those pass that wait
		_ = unix.Close(fd)
		_ = unix.Close(pin)
	})
	tb.Cleanup(release)
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil {
		tb.Fatalf("hold %s: %v", path, err)
	}
	awaited = func() {
		tb.Helper()
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			if n, err := unix.Poll(events, 100); n > 0 && err == nil {
				return
			}
		}
		tb.Fatalf("nothing opens %s", path)
	}
	return awaited, release
}
