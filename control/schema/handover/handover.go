// SPDX-License-Identifier: Apache-2.0

// Package handover converts the stored state for the daemon of an earlier build, in one of two ways.
// While no daemon has the state open, [Begin] and [Handover.Wait] do. A running daemon does with
// [Finish], as its last use of the state, if it finds a request in the state's directory: the
// earlier daemon may open the state at once.
package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/control/schema"
	"github.com/fairlead-net/fairlead/control/store"
)

const (
	// requestFile, beside the state, holds the schema to leave the state with.
	requestFile = "downgrade"
	// pollInterval is how often Wait checks whether the state can be opened.
	pollInterval = 20 * time.Millisecond
)

// Handover is the conversion of a state for an earlier build.
type Handover struct {
	// Needed means that the earlier build cannot read the state as it is.
	Needed bool
	// Schema is the version that the earlier build writes.
	Schema int
	path   string // of the state
}

// Begin converts the state in the file at path for the binary at to, or requests that from the running
// daemon.
func Begin(ctx context.Context, path, to string) (*Handover, error) {
	other, err := schema.OfBinary(to)
	if err != nil {
		return nil, err
	}
	h := &Handover{path: path, Schema: other}
	if other >= schema.Current {
		return h, nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no state is in %q (name its directory with --state-dir): %w", filepath.Dir(path), err)
	}
	h.Needed = true
	// The request precedes the first attempt, so that a daemon which ends now converts the state.
	if err := os.WriteFile(request(path), strconv.AppendInt(nil, int64(other), 10), 0o600); err != nil {
		return nil, fmt.Errorf("request an earlier schema of the state: %w", err)
	}
	if _, err := h.convert(ctx); err != nil {
		return nil, errors.Join(err, h.Cancel())
	}
	return h, nil
}

// convert converts the state unless a daemon has it open. It reports whether the state has been
// converted, by this or another process.
func (h *Handover) convert(ctx context.Context) (done bool, err error) {
	if _, err := os.Stat(request(h.path)); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	state, err := store.OpenBolt(store.BoltConfig{Path: h.path, LockTimeout: pollInterval})
	if errors.Is(err, store.ErrInUse) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = errors.Join(Finish(ctx, state, h.path), state.Close())
	return err == nil, err
}

// Wait waits until the state has been converted.
func (h *Handover) Wait(ctx context.Context) error {
	for h.Needed {
		if done, err := h.convert(ctx); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("convert the state: the daemon of this build still runs: %w", context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
	return nil
}

// Cancel withdraws the request. A state that was converted stays so; the next daemon of this build
// converts it back.
func (h *Handover) Cancel() error {
	if !h.Needed {
		return nil
	}
	return withdraw(h.path)
}

// request returns the path of the request beside a state.
func request(path string) string { return filepath.Join(filepath.Dir(path), requestFile) }

func withdraw(path string) error {
	if err := os.Remove(request(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdraw the request for an earlier schema: %w", err)
	}
	return nil
}

// Finish converts the state in the file at path to the schema that was requested, if any. A daemon
// calls it before it closes the state.
func Finish(ctx context.Context, state store.Store, path string) error {
	text, err := os.ReadFile(request(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	to, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("invalid request for an earlier schema (remove %q): %w", request(path), err)
	}
	if err := schema.Downgrade(ctx, state, to); err != nil {
		return err
	}
	return withdraw(path)
}
