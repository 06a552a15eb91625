// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// readAll visits every entry of a map until visit returns false. On hashes it
// reads whole buckets in batches: an entry that is there all the time is seen
// exactly once, whatever else comes and goes.
func readAll[K, V any](m kernelMap, visit func(K, V) bool) error {
	if !batchReadable(m.Type()) {
		return readOneByOne(m, visit)
	}
	size := min(batchSize, max(int(m.MaxEntries()), 256))
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, unix.ENOSPC) {
			// A bucket does not fit; the cursor still points to it.
			size *= 2
			keys, values = make([]K, size), make([]V, size)
			continue
		}
		if errors.Is(err, ebpf.ErrNotSupported) {
			return readOneByOne(m, visit)
		}
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			if !visit(keys[i], values[i]) {
				return nil
			}
		}
		if last {
			return nil
		}
	}
}

// batchReadable: only hashes read in batches bucket by bucket; other maps
// would gain nothing and lose the plain iterator's simplicity.
func batchReadable(t ebpf.MapType) bool {
	return t == ebpf.Hash || t == ebpf.LRUHash
}

func readOneByOne[K, V any](m kernelMap, visit func(K, V) bool) error {
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		if !visit(k, v) {
			return nil
		}
	}
	return it.Err()
}

// count returns the number of entries of a hash without looking at them.
func count(m *ebpf.Map) (int, error) {
	n := 0
	err := readRaw(m, func(keys, values any, got int) error {
		n += got
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count entries: %w", err)
	}
	return n, nil
}

// Copy writes the entries of the hash src to dst, whose keys must have the same
// size, with values converted by layout. With onlyMissing it leaves alone the
// keys dst has already, unless their connection has ended: dst would keep it for days. It returns how many entries it wrote and how many found
// no room in dst.
func Copy(dst, src *ebpf.Map, layout Layout, onlyMissing bool) (copied, lost int, err error) {
	size := src.ValueSize()
	if layout.size != 0 {
		size = layout.size
	}
	if dst.KeySize() != src.KeySize() || dst.ValueSize() != size {
		return 0, 0, errors.New("copy table: keys or values differ in size")
	}
	flags := ebpf.UpdateAny
	if onlyMissing {
		flags = ebpf.UpdateNoExist
	}
	err = readRaw(src, func(keys, values any, n int) error {
		ks, vs := reflect.ValueOf(keys).Slice(0, n), layout.values(reflect.ValueOf(values).Slice(0, n))
		if n > 0 && !onlyMissing {
			if _, err := dst.BatchUpdate(ks.Interface(), vs.Interface(), nil); err == nil {
				copied += n
				return nil
			}
		}
		for i := range n {
			k, v := ks.Index(i).Addr().Interface(), vs.Index(i).Addr().Interface()
			err := dst.Update(k, v, flags)
			if errors.Is(err, ebpf.ErrKeyExist) && hasEnded(dst, k, vs.Index(i).Bytes(), layout) {
				err = dst.Update(k, v, ebpf.UpdateExist)
			}
			switch {
			case err == nil:
				copied++
			case errors.Is(err, ebpf.ErrKeyExist), errors.Is(err, ebpf.ErrKeyNotExist):
			case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
				lost++
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return copied, lost, fmt.Errorf("copy table: %w", err)
	}
	return copied, lost, nil
}

// hasEnded reports whether a connection that is established in dst has ended by now.
func hasEnded(dst *ebpf.Map, key any, now []byte, layout Layout) bool {
	before, err := dst.LookupBytes(key)
	return err == nil && before != nil && layout.ended(before, now)
}

// readRaw reads a hash in batches of keys and values as byte arrays, whose
// sizes only the map knows.
func readRaw(m *ebpf.Map, visit func(keys, values any, n int) error) error {
	size := batchSize
	keys := reflect.MakeSlice(bytesOf(m.KeySize()), size, size).Interface()
	values := reflect.MakeSlice(bytesOf(m.ValueSize()), size, size).Interface()
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, unix.ENOSPC) {
			size *= 2
			keys = reflect.MakeSlice(bytesOf(m.KeySize()), size, size).Interface()
			values = reflect.MakeSlice(bytesOf(m.ValueSize()), size, size).Interface()
			continue
		}
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		if err := visit(keys, values, n); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

// bytesOf is the type of a slice of arrays of n bytes.
func bytesOf(n uint32) reflect.Type {
	return reflect.SliceOf(reflect.ArrayOf(int(n), reflect.TypeFor[byte]()))
}
