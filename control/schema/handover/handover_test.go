// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
)

// handedOver has a state of the current schema, and binaries of this and of an earlier build.
type handedOver struct {
	t                   *testing.T
	path, this, earlier string
}

func newHandedOver(t *testing.T) *handedOver {
	t.Helper()
	h := &handedOver{t: t, path: filepath.Join(t.TempDir(), "state.db")}
	var err error
	if h.this, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	h.earlier = filepath.Join(t.TempDir(), "earlier")
	if err := os.WriteFile(h.earlier, []byte("\x7fELF"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := h.open()
	if _, err := s.Commit(t.Context(), store.Put(schema.KeyVersion, fmt.Append(nil, schema.Current))); err != nil {
		t.Fatal(err)
	}
	h.close(s)
	return h
}

// open opens the state as a daemon does.
func (h *handedOver) open() store.Store {
	h.t.Helper()
	s, err := store.OpenBolt(store.BoltConfig{Path: h.path, NoSync: true})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *handedOver) close(s store.Store) {
	h.t.Helper()
	if err := s.Close(); err != nil {
		h.t.Fatal(err)
	}
}

// has checks the version of the state, and whether a request for an earlier one is left.
func (h *handedOver) has(version int, requested bool) {
	h.t.Helper()
	s := h.open()
	defer h.close(s)
	if got, err := schema.Version(h.t.Context(), s); err != nil || got != version {
		h.t.Errorf("the state has schema %d, %v, want %d", got, err, version)
	}
	if _, err := os.Stat(request(h.path)); errors.Is(err, fs.ErrNotExist) == requested {
		h.t.Errorf("request: %v, want one: %t", err, requested)
	}
}

func (h *handedOver) handOver(to string) *Handover {
	h.t.Helper()
	o, err := Begin(h.t.Context(), h.path, to)
	if err != nil {
		h.t.Fatal(err)
	}
	return o
}

// Without a daemon the state is converted at once, unless the other build reads it as it is.
func TestHandOverOfStoppedDaemon(t *testing.T) {
	h := newHandedOver(t)
	if o := h.handOver(h.this); o.Needed || o.Schema != schema.Current || o.Wait(t.Context()) != nil || o.Cancel() != nil {
		t.Errorf("a build with the same schema: %+v", o)
	}
	h.has(schema.Current, false)
	o := h.handOver(h.earlier)
	if err := o.Wait(t.Context()); err != nil || !o.Needed || o.Schema != 1 {
		t.Errorf("an earlier build: %+v, %v", o, err)
	}
	h.has(1, false)
}

// A running daemon converts the state when it ends, as its last use of it.
func TestHandOverOfRunningDaemon(t *testing.T) {
	h := newHandedOver(t)
	s := h.open()
	o := h.handOver(h.earlier)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*pollInterval, errors.New("waited"))
	defer cancel()
	if err := o.Wait(ctx); err == nil || !strings.Contains(err.Error(), "still runs: waited") {
		t.Errorf("while the daemon runs: %v", err)
	}
	if err := Finish(t.Context(), s, h.path); err != nil {
		t.Fatal(err)
	}
	if err := o.Wait(t.Context()); err != nil { // also while the earlier daemon has the state open
		t.Error(err)
	}
	h.close(s)
	h.has(1, false)
}

// A daemon that is killed cannot convert the state: Downgrade does when nothing has it open.
func TestHandOverOfKilledDaemon(t *testing.T) {
	h := newHandedOver(t)
	s := h.open()
	o := h.handOver(h.earlier)
	killed := time.AfterFunc(3*pollInterval, func() { _ = s.Close() })
	defer killed.Stop()
	if err := o.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	h.has(1, false)
}

// A canceled downgrade withdraws the request, and a daemon without a request converts nothing.
func TestHandOverCanceled(t *testing.T) {
	h := newHandedOver(t)
	s := h.open()
	if err := h.handOver(h.earlier).Cancel(); err != nil {
		t.Error(err)
	}
	if err := Finish(t.Context(), s, h.path); err != nil {
		t.Error(err)
	}
	h.close(s)
	h.has(schema.Current, false)
}

func TestHandOverRefuses(t *testing.T) {
	h := newHandedOver(t)
	if _, err := Begin(t.Context(), filepath.Join(t.TempDir(), "state.db"), h.earlier); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("without a state: %v", err)
	}
	if _, err := Begin(t.Context(), h.path, "/does/not/exist"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a binary: %v", err)
	}
	if err := os.WriteFile(request(h.path), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := h.open()
	defer h.close(s)
	if err := Finish(t.Context(), s, h.path); err == nil || !strings.Contains(err.Error(), "remove") {
		t.Errorf("an invalid request: %v", err)
	}
}
