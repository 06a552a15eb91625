// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrDamaged means that the stored data differs from what was written.
var ErrDamaged = errors.New("it is damaged")

// openSound opens a database and verifies all of it. bbolt maps the file and trusts
// its content: damaged pages make it panic, and missing pages make the kernel send a
// signal, possibly much later, when they are first accessed.
func openSound(path string, options *bbolt.Options) (db *bbolt.DB, err error) {
	// bbolt treats an empty file as a new database.
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, options)
		if errno := syscall.Errno(0); errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &errno) {
			return err
		}
		if err == nil {
			err = db.View(func(tx *bbolt.Tx) error { return checkPages(path, tx) })
		}
		if err == nil {
			err = db.View(readAll)
		}
		if err != nil {
			return fmt.Errorf("%w: %s", ErrDamaged, oneLine(err.Error()))
		}
		return nil
	})
	if err != nil && db != nil {
		// Ignore the error: the process is about to exit anyway.
		_ = guard(db.Close)
	}
	return db, err
}

// guard runs a function that reads or writes a database, and returns an error if it panics
// because the database is damaged.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s", ErrDamaged, oneLine(fmt.Sprint(r)))
		}
	}()
	err = do()
	var path *fs.PathError
	if errno := syscall.Errno(0); errors.As(err, &path) && !errors.As(err, &errno) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err) // an impossible offset in the file
	}
	return err
}

// Layout of a page of bbolt's file: a header, and in a branch page the elements. All numbers are
// in host byte order.
const (
	pageHeader    = 16 // id (8 bytes), flags (2), number of elements (2), overflow (4)
	branchElement = 16 // position and size of the key (4 each), page (8)
)

// pages checks which pages are in use. bbolt does not notice that pages form a circle, in which its
// cursor never ends, or that a page in use is listed as free, which the next write replaces.
// bbolt's own check finds both, but runs in a goroutine of its own, where an access beyond the end
// of the file cannot be caught.
type pages struct {
	tx   *bbolt.Tx
	file *os.File
	size int64 // of a page, in bytes
	used map[int64]bool
}

// checkPages checks the pages of all buckets.
func checkPages(path string, tx *bbolt.Tx) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	p := &pages{tx: tx, file: file, size: int64(tx.DB().Info().PageSize), used: map[int64]bool{}}
	if err := p.check(int64(tx.Cursor().Bucket().Root())); err != nil {
		return err
	}
	return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
		if bucket.Root() == 0 { // within the page of its parent
			return nil
		}
		return p.check(int64(bucket.Root()))
	})
}

// check checks a page and those below it.
func (p *pages) check(id int64) error {
	info, err := p.tx.Page(int(id))
	if err != nil {
		return err
	}
	if info == nil || id+int64(info.OverflowCount) >= p.tx.Size()/p.size {
		return fmt.Errorf("page %d is beyond the end", id)
	}
	for i := range int64(info.OverflowCount) + 1 {
		if err := p.use(id + i); err != nil {
			return err
		}
	}
	if info.Type != "branch" {
		return nil
	}
	elements := make([]byte, branchElement*info.Count)
	if _, err := p.file.ReadAt(elements, id*p.size+pageHeader); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for ; len(elements) > 0; elements = elements[branchElement:] {
		if err := p.check(int64(binary.NativeEndian.Uint64(elements[8:]))); err != nil {
			return err
		}
	}
	return nil
}

// use notes that a page is in use.
func (p *pages) use(id int64) error {
	info, err := p.tx.Page(int(id))
	switch {
	case err != nil:
		return err
	case info.Type == "free":
		return fmt.Errorf("page %d is in use and listed as free", id)
	case p.used[id]:
		return fmt.Errorf("page %d is used twice", id)
	}
	p.used[id] = true
	return nil
}

// readAll reads every key and value of the buckets.
func readAll(tx *bbolt.Tx) error {
	var value []byte // copying a value reads all its pages
	return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		var last []byte
		return bucket.ForEach(func(k, v []byte) error {
			if last != nil && string(last) >= string(k) {
				return fmt.Errorf("bucket %q: key %q follows %q", name, k, last)
			}
			last = append(last[:0], k...)
			value = append(value[:0], v...)
			return nil
		})
	})
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
