// SPDX-License-Identifier: Apache-2.0

package table

import "github.com/cilium/ebpf"

// View presents a Table of kernel entries as a table of domain values D.
type View[K, V comparable, D any] struct {
	table *Table[K, V]
	raw   func(D) (K, V)
	from  func(K, V) D
}

// NewView reads a map into a View. raw converts a value to the kernel's form, from is its inverse.
func NewView[K, V comparable, D any](name string, m *ebpf.Map, raw func(D) (K, V), from func(K, V) D) (View[K, V, D], error) {
	t, err := New[K, V](name, m)
	return View[K, V, D]{table: t, raw: raw, from: from}, err
}

// Put makes sure the kernel has the entry. It reports whether it had to write.
func (v View[K, V, D]) Put(d D) (written bool, err error) {
	k, val := v.raw(d)
	return v.table.Put(k, val)
}

// PutAll is Put for many entries. It returns how many it wrote.
func (v View[K, V, D]) PutAll(ds []D) (written int, err error) {
	return v.table.PutAll(v.entries(ds))
}

// Delete removes the entry that has the key of d; absent is success.
func (v View[K, V, D]) Delete(d D) (deleted bool, err error) {
	k, _ := v.raw(d)
	return v.table.Delete(k)
}

// DeleteAll removes the entries that have the keys of ds; absent is success. It
// returns how many there were.
func (v View[K, V, D]) DeleteAll(ds []D) (deleted int, err error) {
	keys := make([]K, len(ds))
	for i, d := range ds {
		keys[i], _ = v.raw(d)
	}
	return v.table.DeleteAll(keys)
}

// Sync makes the kernel's entries exactly desired, after reading all of them back. It writes
// before it deletes, and does not touch correct entries.
func (v View[K, V, D]) Sync(desired []D) (written, deleted int, err error) {
	return v.table.Sync(v.entries(desired))
}

// Verify reads all entries back and restores those that another process changed.
func (v View[K, V, D]) Verify() (restored int, err error) { return v.table.Verify() }

// VerifySome verifies the next part of a large table, and reports whether more parts are left in
// this round.
func (v View[K, V, D]) VerifySome() (restored int, more bool, err error) {
	return v.table.VerifySome()
}

// List returns all entries, in no particular order.
func (v View[K, V, D]) List() []D {
	entries := v.table.Entries()
	ds := make([]D, 0, len(entries))
	for k, val := range entries {
		ds = append(ds, v.from(k, val))
	}
	return ds
}

// OnWrite makes the view call f whenever it has changed the kernel's entries.
func (v View[K, V, D]) OnWrite(f func() error) { v.table.OnWrite(f) }

// Refresh reads all entries back from the kernel.
func (v View[K, V, D]) Refresh() error { return v.table.Refresh() }

// Len returns the number of entries.
func (v View[K, V, D]) Len() int { return v.table.Len() }

// MaxEntries returns the table's capacity in entries.
func (v View[K, V, D]) MaxEntries() int { return v.table.MaxEntries() }

func (v View[K, V, D]) entries(ds []D) map[K]V {
	m := make(map[K]V, len(ds))
	for _, d := range ds {
		k, val := v.raw(d)
		m[k] = val
	}
	return m
}
