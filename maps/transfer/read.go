// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batchSize bounds the memory of one batch, in entries.
const batchSize = 4096

// Count returns the number of entries of a hash without examining them.
func Count(m *ebpf.Map) (int, error) {
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

// readRaw reads a hash in batches of keys and values as byte arrays, whose sizes only the map
// defines.
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
