// SPDX-License-Identifier: Apache-2.0

package store

import (
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
