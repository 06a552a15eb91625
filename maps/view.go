// SPDX-License-Identifier: Apache-2.0

package maps

import "github.com/cilium/ebpf"

// rawer is a domain value that can be converted to the kernel's form.
type rawer[K, V comparable] interface {
	raw() (K, V)
}

// view presents a Table of kernel entries as a table of domain values.
type view[K, V comparable, D rawer[K, V]] struct {
	table *Table[K, V]
	from  func(K, V) D
}

func newView[K, V comparable, D rawer[K, V]](name string, m *ebpf.Map, from func(K, V) D) (view[K, V, D], error) {
	t, err := newTable[K, V](name, m)
	return view[K, V, D]{table: t, from: from}, err
}

// Put makes sure the kernel has the entry. It reports whether it had to write.
func (v view[K, V, D]) Put(d D) (written bool, err error) {
	return v.table.Put(d.raw())
}

// PutAll is Put for many entries. It returns how many it wrote.
func (v view[K, V, D]) PutAll(ds []D) (written int, err error) {
	return v.table.PutAll(rawMap[K, V](ds))
}

// DeleteAll removes the entries that have the keys of ds; absent is success. It
// returns how many there were.
func (v view[K, V, D]) DeleteAll(ds []D) (deleted int, err error) {
	keys := make([]K, len(ds))
	for i, d := range ds {
		keys[i], _ = d.raw()
	}
	return v.table.DeleteAll(keys)
}

// Sync makes the kernel's entries exactly desired, after reading all of them back. It writes
// before it deletes, and does not touch correct entries.
func (v view[K, V, D]) Sync(desired []D) (written, deleted int, err error) {
	return v.table.Sync(rawMap[K, V](desired))
}

// Verify reads all entries back and restores those that another process changed.
func (v view[K, V, D]) Verify() (restored int, err error) { return v.table.Verify() }

// VerifySome verifies the next part of a large table, and reports whether more parts are left in
// this round.
func (v view[K, V, D]) VerifySome() (restored int, more bool, err error) {
	return v.table.VerifySome()
}

// List returns all entries, in no particular order.
func (v view[K, V, D]) List() []D {
	entries := v.table.Entries()
	ds := make([]D, 0, len(entries))
	for k, val := range entries {
		ds = append(ds, v.from(k, val))
	}
	return ds
}

// Refresh reads all entries back from the kernel.
func (v view[K, V, D]) Refresh() error { return v.table.Refresh() }

// Len returns the number of entries.
func (v view[K, V, D]) Len() int { return v.table.Len() }

// MaxEntries returns the table's capacity in entries.
func (v view[K, V, D]) MaxEntries() int { return v.table.MaxEntries() }

func rawMap[K, V comparable, D rawer[K, V]](ds []D) map[K]V {
	m := make(map[K]V, len(ds))
	for _, d := range ds {
		k, v := d.raw()
		m[k] = v
	}
	return m
}
