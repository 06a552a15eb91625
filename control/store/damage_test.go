// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// A file that is damaged anywhere or truncated is either refused, or can still be read
// and written. It never crashes the process.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	content := wholeFile(t, dir)
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

const page = 4096 // bytes

// wholeFile returns the content of a file with branch pages, overflow pages and free pages.
func wholeFile(t *testing.T, dir string) []byte {
	t.Helper()
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
	return content
}

// A circle of pages, in which a cursor would never end, a page that is both in use and listed as
// free, which the next write would replace, and a value that extends beyond its page, of which a
// copy would take up to 4 GB, are found when the file is opened.
func TestDamagedPages(t *testing.T) {
	dir := t.TempDir()
	content := wholeFile(t, dir)
	branch, leaf, free, used := somePages(t, filepath.Join(dir, "whole"))
	for _, c := range []struct {
		name, want string
		at         int
		id         uint64
	}{
		{"circle", "used twice", page*branch + pageHeader + 8, uint64(branch)},
		{"long key of a branch", "beyond its end", page*branch + pageHeader, 0xf0000000 << 32},
		{"long key", "beyond its end", page*leaf + pageHeader + 4, 0xf0000000 << 32},
		{"long value", "beyond its end", page*leaf + pageHeader + 12, 0xf0000000},
		{"many elements", "beyond its end", page*leaf + 8, 0xffff0002},
		{"beyond the end", "beyond the end", page*branch + pageHeader + 8, 1 << 40},
		{"used and free", "listed as free", free, uint64(used)},
	} {
		b := bytes.Clone(content)
		binary.NativeEndian.PutUint64(b[c.at:], c.id)
		path := filepath.Join(dir, c.name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := useFile(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// somePages returns a branch page and a leaf page of a file, where in the file a free page is
// listed, and a page in use that the list could have there.
func somePages(t *testing.T, path string) (branch, leaf, free, used int) {
	t.Helper()
	s, err := OpenBolt(BoltConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	err = s.view(func(tx *bbolt.Tx) error {
		branch = int(tx.Bucket([]byte(bucketKV)).Root())
		for id := range int(tx.Size() / page) {
			info, err := tx.Page(id)
			if err != nil {
				return err
			}
			if info.Type == "leaf" && info.Count > 1 {
				leaf = id
			}
			if info.Type != "freelist" {
				continue
			}
			for i := range info.Count {
				at := id*page + pageHeader + 8*i
				next := int(binary.NativeEndian.Uint64(content[at:])) + 1
				if info, err := tx.Page(next); err == nil && info != nil && (info.Type == "leaf" || info.Type == "branch") {
					free, used = at, next
				}
			}
		}
		return nil
	})
	if err != nil || branch == 0 || leaf == 0 || free == 0 {
		t.Fatalf("branch page %d, leaf page %d, free page listed at %d: %v", branch, leaf, free, err)
	}
	return branch, leaf, free, used
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
	for some := range slices.Chunk(entries, 20) { // of up to 400: a commit each would take a minute in all
		var ops []Op
		for _, e := range some {
			ops = append(ops, Delete(e.Key))
		}
		if err == nil {
			_, err = s.Commit(ctx, ops...)
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
