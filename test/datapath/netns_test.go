// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// netns is a network namespace of a test: a thread that lives in it and dies with it.
type netns struct {
	tid  int
	work chan func()
	here int // the thread of the test while that is in the namespace
}

func newNetns(tb testing.TB) *netns {
	tb.Helper()
	ns := &netns{work: make(chan func())}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		started <- err
		if err != nil {
			return
		}
		for f := range ns.work {
			f()
		}
	}()
	if err := <-started; err != nil {
		tb.Fatalf("make a network namespace (these tests run as root): %v", err)
	}
	tb.Cleanup(func() {
		close(ns.work)
		<-ended
	})
	return ns
}

// stay moves the calling goroutine into the namespace, with a thread that ends with it: to let another thread run
// each packet takes longer than the packet.
func (ns *netns) stay() error {
	runtime.LockOSThread() // never unlocked
	ns.here = unix.Gettid()
	return ns.enter()
}

// do runs f in the namespace. f must not end the test.
func (ns *netns) do(f func()) {
	if unix.Gettid() == ns.here {
		f()
		return
	}
	done := make(chan struct{})
	ns.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs commands of ip(8), one per line.
func (ns *netns) ip(tb testing.TB, commands ...string) {
	tb.Helper()
	var out []byte
	var err error
	ns.do(func() {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		tb.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

// sysctl sets a value under net.
func (ns *netns) sysctl(tb testing.TB, name, value string) {
	tb.Helper()
	var err error
	ns.do(func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	must(tb, err)
}

// device is a network device of the namespace.
type device struct {
	name  string
	index uint32
	mac   [6]byte
}

// devices returns the devices by name.
func (ns *netns) devices(tb testing.TB) map[string]device {
	tb.Helper()
	var list []net.Interface
	var err error
	ns.do(func() { list, err = net.Interfaces() })
	must(tb, err)
	m := make(map[string]device)
	for _, d := range list {
		e := device{name: d.Name, index: uint32(d.Index)}
		copy(e.mac[:], d.HardwareAddr)
		m[d.Name] = e
	}
	return m
}
