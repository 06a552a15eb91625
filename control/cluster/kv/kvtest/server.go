// SPDX-License-Identifier: Apache-2.0

package kvtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// Server is a Cluster of one real server, a process in the tests' network namespace.
type Server struct {
	Addr       string                                       // where it listens
	Command    func(dir string) *exec.Cmd                   // runs it with its data in a directory
	Backend    func(addr string) kv.Backend                 // a client of it
	Compaction func(ctx context.Context, addr string) error // nil: it keeps nothing of the past
	Lease      time.Duration
	Late       time.Duration // by which an expired lease is removed too late

	dir string
	cmd *exec.Cmd
	ran chan struct{} // closed when the process has ended
}

// Launch starts a server for the duration of the test.
func Launch(t *testing.T, s *Server) {
	t.Helper()
	s.dir = t.TempDir()
	s.Start(t)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", s.tail())
		}
	})
}

// Begin starts a server for the duration of the test, and waits until it answers.
func Begin(t *testing.T, s *Server) *Server {
	t.Helper()
	Launch(t, s)
	began := time.Now()
	up(t, s.Dial(t))
	t.Logf("the server answered after %v", time.Since(began).Round(time.Millisecond))
	return s
}

// Start implements Cluster.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.cmd = s.Command(data)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start the server: %v (test/deps.sh installs it)", err)
	}
	s.ran = make(chan struct{})
	go func(cmd *exec.Cmd, ran chan struct{}) {
		defer close(ran)
		_ = cmd.Wait()
	}(s.cmd, s.ran)
}

// Stop implements Cluster.
func (s *Server) Stop(t *testing.T) {
	t.Helper()
	select {
	case <-s.ran:
		t.Fatalf("the server has exited by itself: %v\n%s", s.cmd.ProcessState, s.tail())
	default:
	}
	s.kill()
}

func (s *Server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ran
	}
}

// Wipe implements Cluster.
func (s *Server) Wipe(t *testing.T) {
	t.Helper()
	s.Stop(t)
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
}

// Compact implements Cluster.
func (s *Server) Compact(t *testing.T) {
	t.Helper()
	if s.Compaction == nil {
		return
	}
	if err := s.Compaction(t.Context(), s.Addr); err != nil {
		t.Fatalf("compact: %v", err)
	}
}

// Dial implements Cluster.
func (s *Server) Dial(t *testing.T) *Client {
	t.Helper()
	proxy := NewProxy(t, s.Addr)
	store := kv.New(s.Backend(proxy.Addr), Config("store://"+proxy.Addr))
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &Client{Store: store, Cut: proxy.Cut}
}

// TTL and Grace implement Cluster.
func (s *Server) TTL() time.Duration { return s.Lease }

// Grace implements Cluster.
func (s *Server) Grace() time.Duration { return s.Late }

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// tail returns the last lines of the server's log.
func (s *Server) tail() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
