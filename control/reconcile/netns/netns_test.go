// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

func newNamespaces(t *testing.T) (s *Namespaces, log *bytes.Buffer) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	nl, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nl.Close() })
	log = new(bytes.Buffer)
	return New(nl, slog.New(slog.NewTextHandler(log, nil))), log
}

func sandbox(t *testing.T, dir, name string) *Sandbox {
	t.Helper()
	b := &model.Sandbox{ID: name, Name: name, ManagedBy: model.ByFairlead, NetworkMode: model.NetworkBridge, NetNS: filepath.Join(dir, name)}
	t.Cleanup(func() {
		if err := rtnl.RemoveNetNS(b.NetNS); err != nil {
			t.Error(err)
		}
	})
	return &Sandbox{ID: b.ID, Want: b}
}

// A missing namespace is created, unless a device shows that it exists without its path.
func TestCreate(t *testing.T) {
	s, _ := newNamespaces(t)
	b := sandbox(t, t.TempDir(), "box")
	inUse := true
	create := func(want bool, wantErr error) {
		t.Helper()
		if created, err := s.Create(b, func() bool { return inUse }); created != want || !errors.Is(err, wantErr) {
			t.Errorf("created: %t, %v; want %t, %v", created, err, want, wantErr)
		}
	}
	create(false, rtnl.ErrNoNetNS)
	inUse = false
	create(true, nil)
	create(false, nil)
	if err := s.Remove(b); err != nil {
		t.Fatal(err)
	}
	b.Want.ManagedBy = model.ByUser
	create(false, nil)
	if _, err := s.Open(b); !errors.Is(err, rtnl.ErrNoNetNS) {
		t.Errorf("the namespace of a user is opened: %v", err)
	}
}

// Only what is wanted survives, and only owned namespaces are removed.
func TestRemoveAndSweep(t *testing.T) {
	s, _ := newNamespaces(t)
	dir := t.TempDir()
	kept, stale := sandbox(t, dir, "kept"), sandbox(t, dir, "stale")
	exists := func(b *Sandbox) bool {
		_, err := os.Stat(b.Want.NetNS)
		return err == nil
	}
	for _, b := range []*Sandbox{kept, stale} {
		if _, err := s.Create(b, func() bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(dir, map[string]bool{kept.Want.NetNS: true}); err != nil || !exists(kept) || exists(stale) {
		t.Errorf("sweep: %v; kept: %t, stale: %t", err, exists(kept), exists(stale))
	}
	if err := s.Sweep(filepath.Join(dir, "missing"), nil); err != nil {
		t.Errorf("sweep of a directory that does not exist: %v", err)
	}
	kept.Want.ManagedBy = model.ByUser
	if err := s.Remove(kept); err != nil || !exists(kept) {
		t.Errorf("remove of a user's namespace: %v, exists: %t", err, exists(kept))
	}
	kept.Want.ManagedBy = model.ByFairlead
	if err := s.Remove(kept); err != nil || exists(kept) {
		t.Errorf("remove: %v, exists: %t", err, exists(kept))
	}
}

// A namespace that vanishes and comes back is logged once each.
func TestVanished(t *testing.T) {
	s, log := newNamespaces(t)
	b := sandbox(t, t.TempDir(), "box")
	s.NoteBack(b)
	for range 2 {
		s.NoteVanished(b, rtnl.ErrNoNetNS)
	}
	if !b.Vanished() || !b.VanishedFor(0) || b.VanishedFor(time.Hour) {
		t.Error("the namespace does not count as vanished just now")
	}
	for range 2 {
		s.NoteBack(b)
	}
	if b.Vanished() || b.VanishedFor(0) || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("vanished: %t; logged:\n%s", b.Vanished(), log)
	}
}

// Events are taken once, and each kind wakes the reader.
func TestEvents(t *testing.T) {
	e := NewEvents()
	e.Note(4)
	e.Note(7)
	<-e.Ready
	if changed, lost := e.Take(); len(changed) != 2 || !changed[4] || !changed[7] || lost {
		t.Errorf("took %v, lost: %t", changed, lost)
	}
	e.Missed()
	<-e.Ready
	if changed, lost := e.Take(); len(changed) != 0 || !lost {
		t.Errorf("took %v, lost: %t", changed, lost)
	}
	if changed, lost := e.Take(); len(changed) != 0 || lost || len(e.Ready) != 0 {
		t.Errorf("took %v again, lost: %t", changed, lost)
	}
}
