// SPDX-License-Identifier: Apache-2.0

// Package fdstore hands sockets to systemd, which keeps them while no daemon runs and passes them to the next
// one: the protocol of sd_pid_notify_with_fds(3). What arrives at such a socket meanwhile waits in it.
package fdstore

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sendTime is how long a message may wait for systemd to read earlier ones. Callers hold locks.
	sendTime = 200 * time.Millisecond
	// settleTime is how long systemd has to close what it was asked to.
	settleTime = time.Second
	// pause is the interval between attempts after an error.
	pause = 5 * time.Second
)

// Store is the sockets that systemd keeps for this service. Without systemd, and under one that keeps nothing, it
// is empty and stays so.
type Store struct {
	log    *slog.Logger
	notify string // the socket at which systemd receives messages
	limit  int    // FileDescriptorStoreMax=

	mu      sync.Mutex
	passed  map[string]*os.File // by an earlier daemon, and not taken yet
	kept    map[string]bool     // by systemd
	leaving map[string]bool     // to be removed; systemd did not receive that yet
	settled *os.File            // ends when systemd has removed what it was asked to, or nil
	full    bool                // and logged as such
	failed  time.Time           // when the last message could not be sent; zero: it was
}

// New returns the store of a process with the descriptors that systemd passed to it from there. Those with a name that does not
// begin with the prefix are refused.
func New(passed []*os.File, prefix string, log *slog.Logger) *Store {
	s := &Store{log: log, notify: os.Getenv("NOTIFY_SOCKET"), passed: map[string]*os.File{}, kept: map[string]bool{}, leaving: map[string]bool{}}
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && s.notify != "" {
		s.limit = n
	}
	_ = os.Unsetenv("FDSTORE") // of no use to the programs that this one starts
	for _, f := range passed {
		s.kept[f.Name()] = true
		switch {
		case !strings.HasPrefix(f.Name(), prefix):
			s.refuse(f.Name(), f, errors.New("this build does not store anything of this name"))
		case s.passed[f.Name()] != nil:
			s.refuse(f.Name(), f, errors.New("systemd passed two of this name"))
		default:
			s.passed[f.Name()] = f
		}
	}
	return s
}

// Take returns a socket that an earlier daemon stored, or nil. It belongs to the caller. A descriptor of that name that is not
// a socket of the network ("udp" or "tcp") at the address, in the network namespace of the daemon, is refused.
func (s *Store) Take(name, network string, at netip.AddrPort) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.passed[name]
	if f == nil {
		return nil
	}
	delete(s.passed, name)
	if err := check(f, network, at); err != nil {
		s.refuse(name, f, err)
		return nil
	}
	return f
}

// Put stores a socket, unless it is stored already or the store is full.
func (s *Store) Put(name string, socket syscall.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
	switch {
	case s.limit == 0 || s.kept[name] || s.leaving[name]:
	case len(s.kept) >= s.limit:
		if !s.full {
			s.full = true
			s.log.Warn("systemd does not keep all sockets; queries to the others are lost while no daemon runs", "limit", s.limit, "first", name)
		}
	default:
		raw, err := socket.SyscallConn()
		if err == nil {
			// Sockets have no errors of their own to report to systemd, which would close them then.
			err = errors.Join(err, raw.Control(func(fd uintptr) {
				s.kept[name] = s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, int(fd))
			}))
		}
		if err != nil {
			s.log.Warn("cannot store a socket", "name", name, "err", err)
		}
		if !s.kept[name] {
			delete(s.kept, name)
		}
	}
}

// Has reports whether systemd keeps a socket.
func (s *Store) Has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[name]
}

// Remove makes systemd close a socket, if it is stored.
func (s *Store) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(name)
}

func (s *Store) remove(name string) {
	if !s.kept[name] {
		return
	}
	delete(s.kept, name)
	s.full = false
	s.leaving[name] = true
	s.flush()
}

// Discard closes what earlier daemons stored and nothing took, here and in systemd.
func (s *Store) Discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.passed)) {
		s.log.Info("removed a stored socket that is not used any more", "name", name)
		_ = s.passed[name].Close() // it is not used
		delete(s.passed, name)
		s.remove(name)
	}
}

// Settle waits until systemd has closed what was removed, for a second at most: a socket at the same address would
// share what arrives with the removed one.
func (s *Store) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled == nil {
		return
	}
	if err := s.settled.SetReadDeadline(time.Now().Add(settleTime)); err == nil {
		_, _ = s.settled.Read(make([]byte, 1)) // it ends, or the time does
	}
	_ = s.settled.Close()
	s.settled = nil
}

// refuse closes a descriptor that was passed, and has systemd do so.
func (s *Store) refuse(name string, f *os.File, err error) {
	s.log.Warn("refused a descriptor from systemd's store", "name", name, "err", err)
	_ = f.Close() // it is not used
	s.remove(name)
}

// flush has systemd remove what is leaving.
func (s *Store) flush() {
	if len(s.leaving) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.leaving)) {
		if !s.send("FDSTOREREMOVE=1\nFDNAME=" + name) {
			return
		}
		delete(s.leaving, name)
	}
	r, w, err := os.Pipe()
	if err != nil {
		s.log.Warn("cannot wait for systemd", "err", err)
		return
	}
	s.send("BARRIER=1", int(w.Fd()))
	_ = w.Close() // systemd has another, and closes it after the messages before
	if s.settled != nil {
		_ = s.settled.Close() // the new one is later
	}
	s.settled = r
}

// send sends a message to systemd, with descriptors. It reports whether systemd has it, and logs why not.
func (s *Store) send(message string, fds ...int) bool {
	if s.notify == "" || !s.failed.IsZero() && time.Since(s.failed) < pause {
		return false
	}
	if err := send(s.notify, message, fds); err != nil {
		if s.failed.IsZero() {
			s.log.Warn("systemd does not keep sockets now; queries are lost while no daemon runs", "err", err)
		}
		s.failed = time.Now()
		return false
	}
	s.failed = time.Time{}
	return true
}

// send sends a message to the socket at a path, or in the abstract namespace if it begins with "@".
func send(to, message string, fds []int) (retErr error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to systemd: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, unix.Close(fd)) }()
	limit := unix.NsecToTimeval(sendTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("limit the time to reach systemd: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(message), rights, &unix.SockaddrUnix{Name: to}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send to %q: %w", to, err)
	}
	return nil
}

// check returns what is wrong with a descriptor that should be an unconnected or listening socket at an address.
func check(f *os.File, network string, at netip.AddrPort) error {
	fd := int(f.Fd())
	domain, kind, listens := unix.AF_INET, unix.SOCK_DGRAM, 0
	if at.Addr().Is6() {
		domain = unix.AF_INET6
	}
	protocols := []int{unix.IPPROTO_UDP}
	if network == "tcp" {
		kind, listens = unix.SOCK_STREAM, 1
		protocols = []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} // Go listens by the latter where the kernel has it
	}
	for _, o := range []struct {
		what   string
		option int
		want   []int
	}{
		{"family", unix.SO_DOMAIN, []int{domain}},
		{"type", unix.SO_TYPE, []int{kind}},
		{"protocol", unix.SO_PROTOCOL, protocols},
		{"listening state", unix.SO_ACCEPTCONN, []int{listens}},
		{"device", unix.SO_BINDTOIFINDEX, []int{0}},
	} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil {
			return fmt.Errorf("read the %s of the socket: %w", o.what, err)
		} else if !slices.Contains(o.want, got) {
			return fmt.Errorf("the %s of the socket is %d, not %d", o.what, got, o.want[0])
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("read the address of the socket: %w", err)
	}
	if got := addrPort(name); got != at {
		return fmt.Errorf("the socket is at %v, not at %v", got, at)
	}
	if peer, err := unix.Getpeername(fd); err == nil {
		return fmt.Errorf("the socket is connected to %v", addrPort(peer))
	}
	return checkNetNS(fd)
}

// checkNetNS refuses a socket of another network namespace than the daemon's.
func checkNetNS(fd int) (retErr error) {
	own, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to compare namespaces: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, unix.Close(own)) }()
	want, err := unix.GetsockoptUint64(own, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return fmt.Errorf("read the namespace cookie: %w", err)
	}
	switch got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); {
	case err != nil:
		return fmt.Errorf("read the namespace cookie of the socket: %w", err)
	case got != want:
		return errors.New("the socket belongs to another network namespace")
	}
	return nil
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
