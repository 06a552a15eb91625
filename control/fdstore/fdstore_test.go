// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl/rtnltest"
)

// manager does what systemd does with the messages of a service.
type manager struct {
	t     *testing.T
	conn  *net.UnixConn
	limit string

	mu    sync.Mutex
	store map[string]*os.File
}

// newManager returns a manager that keeps a number of descriptors for this process.
func newManager(t *testing.T, limit int, abstract bool) *manager {
	t.Helper()
	at := filepath.Join(t.TempDir(), "notify")
	if abstract {
		at = "@" + at
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", at)
	m := &manager{t: t, conn: conn, limit: strconv.Itoa(limit), store: map[string]*os.File{}}
	t.Setenv("FDSTORE", m.limit)
	return m
}

// receive reads all messages that were sent, and returns the names of what it keeps then.
func (m *manager) receive() []string {
	m.t.Helper()
	for {
		if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			m.t.Fatal(err)
		}
		if !m.next() {
			m.mu.Lock()
			defer m.mu.Unlock()
			return slices.Sorted(maps.Keys(m.store))
		}
	}
}

// next reads a message, unless there is none.
func (m *manager) next() bool {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return false
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(messages) > 0 {
		fds, err = unix.ParseUnixRights(&messages[0])
	}
	if err != nil {
		m.t.Error(err)
		return false
	}
	says := map[string]string{}
	for line := range strings.Lines(string(b[:n])) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		says[key] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := says["FDNAME"]
	switch {
	case says["BARRIER"] == "1" && len(fds) == 1 && len(says) == 1:
		_ = unix.Close(fds[0])
	case says["FDSTORE"] == "1" && says["FDPOLL"] == "0" && len(fds) == 1 && m.store[name] == nil:
		m.store[name] = os.NewFile(uintptr(fds[0]), name)
	case says["FDSTOREREMOVE"] == "1" && len(fds) == 0:
		if f := m.store[name]; f != nil {
			_ = f.Close()
			delete(m.store, name)
		}
	default:
		m.t.Errorf("systemd received %q with %d descriptors", b[:n], len(fds))
	}
	return true
}

// pass returns copies of what is kept, as a process gets them.
func (m *manager) pass() (files []*os.File) {
	m.t.Helper()
	m.receive()
	for _, name := range slices.Sorted(maps.Keys(m.store)) {
		fd, err := unix.FcntlInt(m.store[name].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	m.t.Setenv("FDSTORE", m.limit)
	return files
}

// has checks what is kept.
func (m *manager) has(want ...string) {
	m.t.Helper()
	if got := m.receive(); !slices.Equal(got, want) {
		m.t.Errorf("systemd keeps %q, want %q", got, want)
	}
}

func udp(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

func tcp(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func at(a net.Addr) netip.AddrPort { return a.(interface{ AddrPort() netip.AddrPort }).AddrPort() }

// logged returns a log and what was written to it.
func logged() (*slog.Logger, *bytes.Buffer) {
	b := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(b, nil)), b
}

// What arrives while no daemon runs waits for the next one, which stores nothing twice.
func TestNextDaemon(t *testing.T) {
	for _, abstract := range []bool{false, true} {
		m := newManager(t, 10, abstract)
		log, said := logged()
		s := New(nil, "dns-", log)
		for _, loopback := range []string{"127.0.0.1:0", "[::1]:0"} {
			u, l := udp(t, loopback), tcp(t, loopback)
			for range 2 {
				s.Put("dns-u", u)
				s.Put("dns-t", l)
			}
			m.has("dns-t", "dns-u")
			u.Close()
			l.Close()
			client, err := net.Dial("udp", u.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Write([]byte("late")); err != nil {
				t.Fatal(err)
			}
			stream, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}

			s = New(m.pass(), "dns-", log)
			if os.Getenv("FDSTORE") != "" {
				t.Error("programs that the daemon starts get FDSTORE")
			}
			f := s.Take("dns-u", "udp", at(u.LocalAddr()))
			if f == nil {
				t.Fatal(said)
			}
			got, err := net.FilePacketConn(f)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 10)
			if n, _, err := got.ReadFrom(b); string(b[:n]) != "late" || err != nil {
				t.Errorf("the next daemon reads %q, %v", b[:n], err)
			}
			lf := s.Take("dns-t", "tcp", at(l.Addr()))
			if lf == nil {
				t.Fatal(said)
			}
			accepts, err := net.FileListener(lf)
			if err != nil {
				t.Fatal(err)
			}
			c, err := accepts.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if c.RemoteAddr().String() != stream.LocalAddr().String() {
				t.Errorf("the next daemon accepts %v", c.RemoteAddr())
			}
			s.Put("dns-u", got.(*net.UDPConn))
			if s.Take("dns-u", "udp", at(u.LocalAddr())) != nil || !s.Has("dns-u") || s.Has("dns-x") {
				t.Error("what was taken can be taken again, or is not stored any more")
			}
			m.has("dns-t", "dns-u")
			for _, c := range []interface{ Close() error }{client, stream, c, got, accepts, f, lf} {
				c.Close()
			}
			s.Remove("dns-u")
			s.Remove("dns-t")
			m.has()
		}
		if said.Len() > 0 {
			t.Errorf("it is logged that %s", said)
		}
	}
}

// A descriptor that is something else than its name says, or nothing that this build stores, is refused with a line in the log, and
// systemd closes it, too.
func TestRefused(t *testing.T) {
	u, l, u6 := udp(t, "127.0.0.1:0"), tcp(t, "127.0.0.1:0"), udp(t, "[::1]:0")
	right := at(u.LocalAddr())
	connected, err := net.Dial("udp", u.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	device := udp(t, "127.0.0.1:0")
	raw, err := device.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("binding to a device needs root: ", err)
	}
	_, ns := rtnltest.NetNS(t)
	var elsewhere *net.UDPConn
	if err := ns.Do(func() error { elsewhere = udp(t, "127.0.0.1:0"); return nil }); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tc := range []struct {
		what    string
		stored  syscall.Conn
		network string
		at      netip.AddrPort
		want    string
	}{
		{"another address", u, "udp", netip.MustParseAddrPort("127.0.0.2:53"), "not at 127.0.0.2:53"},
		{"another port", u, "udp", netip.AddrPortFrom(right.Addr(), 1), "not at 127.0.0.1:1"},
		{"another family", u6, "udp", right, "family"},
		{"UDP instead of TCP", u, "tcp", right, "type"},
		{"TCP instead of UDP", l, "udp", at(l.Addr()), "type"},
		{"connected", connected.(*net.UDPConn), "udp", at(connected.LocalAddr()), "is connected to " + right.String()},
		{"a device's", device, "udp", at(device.LocalAddr()), "device"},
		{"another namespace's", elsewhere, "udp", at(elsewhere.LocalAddr()), "another network namespace"},
		{"a file", file, "udp", right, "non-socket"},
		{"closed on one side", halfOpen(t, l), "tcp", right, "listening state"},
	} {
		m := newManager(t, 10, false)
		log, said := logged()
		New(nil, "dns-", log).Put("dns-x", tc.stored)
		m.has("dns-x")
		s := New(m.pass(), "dns-", log)
		if s.Take("dns-x", tc.network, tc.at) != nil {
			t.Errorf("%s: it is used", tc.what)
		}
		if n := strings.Count(said.String(), "\n"); n != 1 || !strings.Contains(said.String(), tc.want) || !strings.Contains(said.String(), "name=dns-x") {
			t.Errorf("%s: the log has %d lines, want %q in one:\n%s", tc.what, n, tc.want, said)
		}
		m.has()
	}

	m := newManager(t, 10, false)
	log, said := logged()
	first := New(nil, "", log)
	for _, name := range []string{"dns-a", "dns-b", "other"} {
		first.Put(name, u)
	}
	files := append(m.pass(), m.pass()[1])
	s := New(files, "dns-", log)
	m.has("dns-a")
	s.Discard()
	m.has()
	for _, want := range []string{"name=other", "two of this name", `not used any more" name=dns-a`} {
		if strings.Count(said.String(), want) != 1 {
			t.Errorf("the log does not have one line with %q:\n%s", want, said)
		}
	}
	for _, f := range files {
		if _, err := f.Stat(); err == nil && f.Name() != "dns-b" {
			t.Errorf("%s is still open", f.Name())
		}
	}
}

// halfOpen returns a TCP socket that is connected.
func halfOpen(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// systemd is sent as many sockets as it keeps, and others when there is room.
func TestLimit(t *testing.T) {
	m := newManager(t, 2, false)
	log, said := logged()
	s := New(nil, "dns-", log)
	u := udp(t, "127.0.0.1:0")
	put := func() {
		for i := range 4 {
			s.Put(fmt.Sprint("dns-", i), u)
		}
	}
	put()
	put()
	m.has("dns-0", "dns-1")
	if n := strings.Count(said.String(), "limit=2"); n != 1 {
		t.Errorf("the limit is logged %d times:\n%s", n, said)
	}
	s.Remove("dns-0")
	s.Remove("dns-3")
	s.Put("dns-2", u)
	m.has("dns-1", "dns-2")

	m = newManager(t, 0, false)
	New(nil, "dns-", log).Put("dns-0", u)
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("FDSTORE", "10")
	New(nil, "dns-", log).Put("dns-0", u)
	m.has()
}

// Settle waits for systemd, and not for ever. What systemd could not be sent is sent later.
func TestSettle(t *testing.T) {
	m := newManager(t, 10, false)
	log, said := logged()
	s := New(nil, "dns-", log)
	u := udp(t, "127.0.0.1:0")
	s.Put("dns-0", u)
	s.Settle() // for nothing
	m.has("dns-0")
	s.Remove("dns-0")
	began := time.Now()
	go func() {
		time.Sleep(50 * time.Millisecond)
		m.receive()
	}()
	s.Settle()
	if took := time.Since(began); took < 50*time.Millisecond || took > settleTime {
		t.Errorf("it waited %v", took)
	}
	m.has()

	s.Put("dns-0", u)
	s.Remove("dns-0")
	began = time.Now()
	s.Settle()
	if took := time.Since(began); took < settleTime {
		t.Errorf("it waited %v for a systemd that does not answer", took)
	}
	s.Settle()
	m.has()

	s.Put("dns-0", u)
	m.has("dns-0")
	address := os.Getenv("NOTIFY_SOCKET")
	s.notify += ".gone"
	s.Remove("dns-0")
	s.Put("dns-1", u)
	s.Put("dns-2", u)
	if n := strings.Count(said.String(), "queries are lost"); n != 1 || strings.Count(said.String(), "\n") != 1 {
		t.Errorf("a systemd that cannot be reached is logged %d times:\n%s", n, said)
	}
	s.notify, s.failed = address, s.failed.Add(-pause)
	s.Put("dns-1", u)
	m.has("dns-1")
}
