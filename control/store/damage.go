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

// Layout of a page of bbolt's file: a header, the elements, and their keys and values. All numbers
// are in host byte order.
const (
	pageHeader  = 16 // id (8 bytes), flags (2), number of elements (2), overflow (4)
	pageElement = 16 // branch: position and size of the key (4 each), page (8)
	//                  leaf: flags, position and size of the key, size of the value (4 each)
	leafBucket   = 1  // flag of an element of a leaf page: its value is a bucket
	bucketHeader = 16 // root page (8 bytes; 0: a page without an id follows), sequence (8)
)

// pages checks the pages that are in use. bbolt does not notice that pages form a circle, in which
// its cursor never ends, that a page in use is listed as free, which the next write replaces, or
// that a key or a value extends beyond its page, up to 4 GB into other memory. bbolt's own check
// finds the first two, but runs in a goroutine of its own, where an access beyond the end of the
// file cannot be caught.
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
	run := make([]byte, (int64(info.OverflowCount)+1)*p.size)
	if _, err := p.file.ReadAt(run, id*p.size); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	var below []int64
	switch info.Type {
	case "branch":
		below, err = branches(run)
	case "leaf":
		err = checkLeaf(run)
	default:
		err = fmt.Errorf("it is of type %s", info.Type)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for _, id := range below {
		if err := p.check(id); err != nil {
			return err
		}
	}
	return nil
}

// element is an element of a page: its 16 bytes, and what begins there up to the end of the page.
type element struct {
	fields []byte
	rest   []byte
}

func (e element) field(i int) int64 { return int64(binary.NativeEndian.Uint32(e.fields[4*i:])) }

// elements returns the elements of a page, with its overflow pages.
func elements(run []byte) ([]element, error) {
	if len(run) < pageHeader {
		return nil, errors.New("its header is truncated")
	}
	es := make([]element, binary.NativeEndian.Uint16(run[10:]))
	for i := range es {
		at := pageHeader + i*pageElement
		if at+pageElement > len(run) {
			return nil, fmt.Errorf("element %d is beyond its end", i)
		}
		es[i] = element{fields: run[at : at+pageElement], rest: run[at:]}
	}
	return es, nil
}

// branches returns the pages below a branch page.
func branches(run []byte) ([]int64, error) {
	es, err := elements(run)
	if err != nil {
		return nil, err
	}
	below := make([]int64, len(es))
	for i, e := range es {
		if e.field(0)+e.field(1) > int64(len(e.rest)) {
			return nil, fmt.Errorf("the key of element %d is beyond its end", i)
		}
		below[i] = int64(binary.NativeEndian.Uint64(e.fields[8:]))
	}
	return below, nil
}

// checkLeaf checks the elements of a leaf page, and those of the buckets within it.
func checkLeaf(run []byte) error {
	es, err := elements(run)
	if err != nil {
		return err
	}
	for i, e := range es {
		value := e.field(1) + e.field(2)
		end := value + e.field(3)
		if end > int64(len(e.rest)) {
			return fmt.Errorf("element %d is beyond its end", i)
		}
		if e.field(0)&leafBucket == 0 {
			continue
		}
		bucket := e.rest[value:end]
		if len(bucket) < bucketHeader {
			return fmt.Errorf("the bucket of element %d is truncated", i)
		}
		if root := binary.NativeEndian.Uint64(bucket); root != 0 {
			continue // the bucket has pages of its own
		}
		if err := checkLeaf(bucket[bucketHeader:]); err != nil {
			return fmt.Errorf("the bucket of element %d: %w", i, err)
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
