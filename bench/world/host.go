// SPDX-License-Identifier: Apache-2.0

// Package world makes private hosts to test Fairlead on: namespaces with real programs in
// them. Nothing of a world outlives the process that made it, even if that is killed: its
// namespaces are held by threads, not by mounts, and its programs die with the thread that
// started them.
package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is a network namespace and a mount namespace, and a thread that lives in both. Only
// its programs see mounts made in it.
type Host struct {
	Name string

	tid   int
	work  chan func()
	ended chan struct{}

	mu        sync.Mutex
	processes []*Process
}

// New makes a host that has only a loopback device, which is up.
func New(name string) (*Host, error) {
	return newHost(name, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make namespaces (this takes root): %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keep mounts private: %w", err)
		}
		return loopbackUp()
	})
}

// Enter makes a host from the network namespace at path, as seen by h. It shares h's mounts.
func (h *Host) Enter(name, path string) (*Host, error) {
	mounts, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/mnt", h.tid))
	if err != nil {
		return nil, fmt.Errorf("open mount namespace of %s: %w", h.Name, err)
	}
	defer mounts.Close()
	return newHost(name, func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare working directory: %w", err)
		}
		if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mount namespace of %s: %w", h.Name, err)
		}
		ns, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %q: %w", path, err)
		}
		return nil
	})
}

// newHost starts a thread that enters the host's namespaces.
func newHost(name string, enter func() error) (*Host, error) {
	h := &Host{Name: name, work: make(chan func()), ended: make(chan struct{})}
	entered := make(chan error)
	go h.live(enter, entered)
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, err)
	}
	return h, nil
}

// live is the body of the thread. It never unlocks the thread, which therefore ends with the
// goroutine. The exception is the process's first thread, which cannot end and lets another
// take its place.
func (h *Host) live(enter func() error, entered chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		other := make(chan struct{})
		go func() {
			defer close(other)
			h.live(enter, entered)
		}()
		<-other
		runtime.UnlockOSThread()
		return
	}
	defer close(h.ended)
	h.tid = unix.Gettid()
	err := enter()
	entered <- err
	if err != nil {
		return
	}
	for f := range h.work {
		f()
	}
}

// Do runs f on the host's thread. A socket that f opens stays in the host's network
// namespace; a goroutine that f starts does not run there.
func (h *Host) Do(f func() error) error {
	err := errors.New("function did not return")
	done := make(chan struct{})
	h.work <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// Close kills the host's programs and ends its thread, after which the kernel removes the
// namespaces and everything in them.
func (h *Host) Close() {
	h.mu.Lock()
	processes := h.processes
	h.processes = nil
	h.mu.Unlock()
	for _, p := range processes {
		p.Kill()
	}
	close(h.work)
	<-h.ended
}

// NetNS returns a path of the host's network namespace, valid until Close.
func (h *Host) NetNS() string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), h.tid)
}

// Dial opens a connection from the host to a numeric address.
func (h *Host) Dial(d net.Dialer, network, address string) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = d.Dial(network, address)
		return err
	})
	return c, err
}

// Listen opens a listening socket on the host. Its connections do not send keepalives, so
// that an idle connection has no traffic.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	config := net.ListenConfig{KeepAlive: -1}
	err = h.Do(func() error {
		l, err = config.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket on the host.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// Sysctl sets a value under /proc/sys/net.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// IP runs commands of ip(8), one per line.
func (h *Host) IP(commands ...string) error {
	_, err := h.pipe(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// loopbackUp sets the loopback device of the thread's namespace up, and turns duplicate
// address detection off, so that nothing in a world has to wait for it.
func loopbackUp() error {
	for _, name := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0)
		if err != nil {
			return fmt.Errorf("turn off duplicate address detection: %w", err)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
