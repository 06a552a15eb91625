// SPDX-License-Identifier: Apache-2.0

package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
)

// open returns a store over a connection whose faults the test controls, on a clock of its own.
func open(t *testing.T, server *memory.Server, cfg kv.Config) (kv.Store, *memory.Conn) {
	t.Helper()
	cfg.Name = "memory://test"
	conn := server.Dial()
	s := kv.New(conn, cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait() // for the first ping
	return s, conn
}

// A server that accepts connections and says nothing costs a call seconds once, and then nothing.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := open(t, memory.New(), kv.Config{})
		if err := s.Commit(t.Context(), nil, kv.Put("a", nil)); err != nil {
			t.Fatal(err)
		}
		conn.Hang(true)
		begin := time.Now()
		errs := make(chan error)
		for range 3 {
			go func() { _, err := s.Get(t.Context(), "a"); errs <- err }()
		}
		for range 3 {
			if err := <-errs; !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "no answer within 2s") {
				t.Errorf("get from a silent server: %v", err)
			}
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("calls to a silent server took %v, want 1 s until a ping and 2 s for it", took)
		}
		begin = time.Now()
		_, err := s.List(t.Context(), "a/")
		if took := time.Since(begin); took != 0 || !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("the next call took %v: %v", took, err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v looks as if the caller's time were over", err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Get(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "for 1h0m") {
			t.Errorf("after an hour: %v", err)
		}
		conn.Hang(false)
		begin = time.Now()
		for _, err = s.Get(t.Context(), "a"); err != nil; _, err = s.Get(t.Context(), "a") {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("a server that answers again was noticed after %v", took)
		}
	})
}

// A call that the caller ends returns the caller's error, and says nothing about the store.
func TestCallersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := open(t, memory.New(), kv.Config{})
		conn.Hang(true)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("get: %v, want the caller's deadline", err)
		}
		if !s.Health().Reachable {
			t.Error("the caller's deadline made the store unreachable")
		}
		if err := s.Alive(ctx, "a", nil, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("alive: %v, want the caller's deadline", err)
		}
	})
}

// counting is a backend that counts the calls of an outage.
type counting struct {
	kv.Backend
	pings, watches atomic.Int32
}

func (c *counting) Ping(ctx context.Context) error {
	c.pings.Add(1)
	return c.Backend.Ping(ctx)
}

func (c *counting) Watch(ctx context.Context, prefix string) kv.Stream {
	c.watches.Add(1)
	return c.Backend.Watch(ctx, prefix)
}

// While the store is away, one ping a second is all that a node does, however many
// watches and leases it has.
func TestOutageIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		server := memory.New()
		b := &counting{Backend: server.Dial()}
		s := kv.New(b, kv.Config{Name: "memory://test", Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		const watches = 20
		for i := range watches {
			w, err := s.Watch(fmt.Sprintf("%d/", i))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for {
					if _, err := w.Next(ctx); err != nil {
						ended <- err
						return
					}
				}
			}()
		}
		go func() { ended <- s.Alive(ctx, "alive", nil, 30*time.Second) }()
		time.Sleep(time.Second)
		server.Stop()
		time.Sleep(10 * time.Second)
		pings, began := b.pings.Load(), b.watches.Load()
		time.Sleep(time.Hour)
		if n := b.pings.Load() - pings; n < 2400 || n > 4800 {
			t.Errorf("%d pings in an hour of outage, want one a second", n)
		}
		if n := b.watches.Load() - began; n != 0 {
			t.Errorf("%d watches were begun in an hour of outage", n)
		}
		server.Start()
		time.Sleep(5 * time.Second)
		if n := b.watches.Load() - began; n != watches {
			t.Errorf("%d watches were begun after the outage, want %d", n, watches)
		}
		if _, err := s.Get(t.Context(), "alive"); err != nil {
			t.Errorf("the leased key: %v", err)
		}
		cancel()
		for range watches + 1 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), "can be used again") {
			t.Errorf("an outage is logged in %d lines, want 2:\n%s", lines, log.String())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// forgetful is a backend whose streams report nothing after their first update.
type forgetful struct{ kv.Backend }

type deaf struct{ kv.Stream }

func (f forgetful) Watch(ctx context.Context, prefix string) kv.Stream {
	return &deaf{f.Backend.Watch(ctx, prefix)}
}

func (d *deaf) Next(ctx context.Context) (kv.Update, error) {
	u, err := d.Stream.Next(ctx)
	if err == nil && !u.Reset {
		<-ctx.Done()
		return kv.Update{}, ctx.Err()
	}
	return u, err
}

// Events that a store loses are made up for by the next list.
func TestListsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.New()
		s := kv.New(forgetful{server.Dial()}, kv.Config{Name: "memory://test"})
		defer s.Close()
		w, err := s.Watch("a/")
		if err != nil {
			t.Fatal(err)
		}
		if u, err := w.Next(t.Context()); err != nil || !u.Reset || len(u.Entries) != 0 {
			t.Fatalf("first update: %+v, %v", u, err)
		}
		if err := s.Commit(t.Context(), nil, kv.Put("a/b", nil)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		u, err := w.Next(t.Context())
		if err != nil || !u.Reset || len(u.Entries) != 1 {
			t.Fatalf("second update: %+v, %v", u, err)
		}
		if took := time.Since(begin); took < 7*time.Minute || took > 13*time.Minute {
			t.Errorf("listed again after %v, want 10 min, more or less", took)
		}
	})
}

// Before the first ping has ended, nothing is refused: a daemon that starts asks at once.
func TestFirstCallIsTried(t *testing.T) {
	server := memory.New()
	s := kv.New(server.Dial(), kv.Config{Name: "memory://test"})
	defer s.Close()
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("the first call: %v", err)
	}
}
