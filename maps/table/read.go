// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ReadAll visits every entry of a map until visit returns false. It reads hashes in batches of
// whole buckets: an entry that exists throughout is seen exactly once, whatever entries are added
// or removed meanwhile.
func ReadAll[K, V any](m Map, visit func(K, V) bool) error {
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

// batchReadable reports whether to read a map in batches. Only hashes are read bucket by bucket;
// other maps would gain nothing and lose the plain iterator's simplicity.
func batchReadable(t ebpf.MapType) bool {
	return t == ebpf.Hash || t == ebpf.LRUHash
}

func readOneByOne[K, V any](m Map, visit func(K, V) bool) error {
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
