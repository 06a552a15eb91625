// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, path string) *Bolt {
	t.Helper()
	b, err := OpenBolt(BoltConfig{Path: path, LockTimeout: 50 * time.Millisecond, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func commit(t *testing.T, s Store, ops ...Op) uint64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func dump(t *testing.T, s Store, prefix string) string {
	t.Helper()
	es, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%s=%s@%d ", e.Key, e.Value, e.Rev)
	}
	return strings.TrimSpace(b.String())
}

func TestCommitIsAtomic(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.db"))
	r1 := commit(t, s, Put("a/1", []byte("x")), Put("a/2", []byte("y")), Put("b/1", []byte("z")))

	tests := []struct {
		name string
		ops  []Op
		want error
		list string
	}{
		{"create-exists", []Op{Put("a/3", nil), Put("a/1", nil).If(0)}, ErrCompare, "a/1=x@1 a/2=y@1"},
		{"wrong-rev", []Op{Delete("a/2"), Put("a/1", nil).If(r1 + 7)}, ErrCompare, "a/1=x@1 a/2=y@1"},
		{"absent-with-rev", []Op{Delete("a/9").If(r1)}, ErrCompare, "a/1=x@1 a/2=y@1"},
		{"no-lease", []Op{{Key: "a/4", Lease: 99}}, ErrLeaseGone, "a/1=x@1 a/2=y@1"},
		{"right-rev", []Op{Put("a/1", []byte("X")).If(r1), Delete("a/2").If(r1)}, nil, "a/1=X@2"},
		{"delete-absent", []Op{Delete("a/9")}, nil, "a/1=X@2"},
		{"create", []Op{Put("a/9", []byte("n")).If(0)}, nil, "a/1=X@2 a/9=n@4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := s.Commit(t.Context(), tt.ops...); !errors.Is(err, tt.want) {
				t.Fatalf("err = %v, want %v", err, tt.want)
			}
			if got := dump(t, s, "a/"); got != tt.list {
				t.Errorf("list = %q, want %q", got, tt.list)
			}
		})
	}
}

func TestGetAndReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := open(t, path)
	commit(t, s, Put("k", []byte("v")))
	if _, err := OpenBolt(BoltConfig{Path: path, LockTimeout: 10 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	got, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Entry{Key: "k", Value: []byte("v"), Rev: 1}, got); diff != "" {
		t.Error(diff)
	}
	if rev := commit(t, s, Put("k", nil)); rev != 2 {
		t.Errorf("revision after reopen = %d, want 2", rev)
	}
	if _, err := s.Get(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of a missing key: %v", err)
	}
}

func TestWatch(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.db"))
	w, err := s.Watch(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, Put("a/1", []byte("x")), Put("b/1", nil))
	commit(t, s, Delete("a/1"), Delete("a/none"))
	got, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Entry: Entry{Key: "a/1", Value: []byte("x"), Rev: 1}},
		{Entry: Entry{Key: "a/1", Rev: 2}, Deleted: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("next without an event: %v", err)
	}
	w.Close()
	w.Close()
	for range 2 {
		if _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("next after close: %v", err)
		}
	}
}

func TestWatcherThatLagsIsTold(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.db"))
	w, _ := s.Watch(t.Context(), "")
	ops := make([]Op, maxQueued+1)
	for i := range ops {
		ops[i] = Put(fmt.Sprint(i), nil)
	}
	commit(t, s, ops...)
	if _, err := w.Next(t.Context()); !errors.Is(err, ErrLagged) {
		t.Errorf("next = %v, want %v", err, ErrLagged)
	}
}

func TestLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := open(t, path)
	w, _ := s.Watch(t.Context(), "")
	short, err := s.Lease(t.Context(), time.Second) // must not expire before the commit below
	if err != nil {
		t.Fatal(err)
	}
	long, _ := s.Lease(t.Context(), time.Hour)
	commit(t, s, Op{Key: "short", Lease: short.ID()}, Op{Key: "long", Lease: long.ID()}, Put("ever", nil))
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	evs, err := w.Next(t.Context())
	if err != nil || len(evs) != 1 || evs[0].Key != "short" || !evs[0].Deleted {
		t.Fatalf("events at expiry = %v, %v", evs, err)
	}
	if err := short.KeepAlive(t.Context()); !errors.Is(err, ErrLeaseGone) {
		t.Errorf("keep alive after expiry: %v", err)
	}
	if err := long.KeepAlive(t.Context()); err != nil {
		t.Error(err)
	}
	if got := dump(t, s, ""); got != "ever=@1 long=@1" {
		t.Errorf("list = %q", got)
	}
	// Leases end with the process of their holders.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, open(t, path), ""); got != "ever=@1" {
		t.Errorf("list after reopen = %q", got)
	}
}
