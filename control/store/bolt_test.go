// SPDX-License-Identifier: Apache-2.0

package store

import (
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
	commit(t, s, Put("a/1", []byte("x")), Put("a/2", []byte("y")), Put("b/1", []byte("z")))

	tests := []struct {
		name string
		ops  []Op
		list string
		fail bool
	}{
		{"refused", []Op{Delete("a/2"), Put("", nil)}, "a/1=x@1 a/2=y@1", true},
		{"change", []Op{Put("a/1", []byte("X")), Delete("a/2")}, "a/1=X@2", false},
		{"delete-absent", []Op{Delete("a/9")}, "a/1=X@2", false},
		{"create", []Op{Put("a/9", []byte("n"))}, "a/1=X@2 a/9=n@4", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := s.Commit(t.Context(), tt.ops...); (err != nil) != tt.fail {
				t.Fatalf("err = %v, want one: %t", err, tt.fail)
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
