// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file that is damaged anywhere or truncated is either refused, or can still be read
// and written. It never crashes the process.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	s, err := OpenBolt(BoltConfig{Path: whole, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 { // leaves free pages too
		for j := range 10 {
			commit(t, s, Put(fmt.Sprintf("sandbox/%03d", 10*i+j), bytes.Repeat([]byte("x"), 10*i+j)))
		}
		commit(t, s, Put("publish/big", bytes.Repeat([]byte("y"), 500*i)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	pages := len(content) / page
	rounds := 600
	if testing.Short() {
		rounds = 200
	}
	refused := 0
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 1))
		b := bytes.Clone(content)
		at := page * rnd.IntN(pages)
		switch seed % 5 {
		case 0: // truncated
			b = b[:rnd.IntN(len(b))]
		case 1: // a page of zeros
			clear(b[at : at+page])
		case 2: // random bytes
			for range 8 {
				b[at+rnd.IntN(page)] = byte(rnd.Uint32())
			}
		case 3: // the beginning of a page, which has its header
			for range 3 {
				b[at+rnd.IntN(64)] = byte(rnd.Uint32())
			}
		case 4: // a page replaced by another
			copy(b[at:at+page], content[page*rnd.IntN(pages):][:page])
		}
		path := filepath.Join(dir, fmt.Sprint(seed))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := useFile(path)
		if err != nil && (!errors.Is(err, ErrDamaged) || errors.Is(err, errLate) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err != nil {
			refused++
		}
		os.Remove(path)
	}
	t.Logf("%d of %d damaged files were refused", refused, rounds)
	if refused < rounds/4 {
		t.Errorf("only %d of %d damaged files were refused", refused, rounds)
	}
}

// errLate: a file was opened that cannot be read.
var errLate = errors.New("found after the file was opened")

// useFile opens a file and changes all its values.
func useFile(path string) error {
	s, err := OpenBolt(BoltConfig{Path: path, NoSync: true, LockTimeout: time.Second})
	if err != nil {
		return err
	}
	ctx := context.Background()
	entries, err := s.List(ctx, "")
	if err != nil { // an open file was read as a whole
		return errors.Join(fmt.Errorf("%w: %w", errLate, err), s.Close())
	}
	for _, e := range entries {
		if err == nil {
			_, err = s.Commit(ctx, Delete(e.Key))
		}
	}
	if err == nil {
		_, err = s.Commit(ctx, Put("after", bytes.Repeat([]byte("z"), 1<<16)))
	}
	return errors.Join(err, s.Close())
}

func TestEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := useFile(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty file: %v", err)
	}
}
