// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"maps"
	"net/netip"
	"reflect"

	dp "github.com/fairlead-net/fairlead/maps"
)

// Keys of the entries in the tables.
type (
	fdbKey struct {
		net uint32
		mac dp.MAC
	}
	neighbourKey struct {
		net  uint32
		addr netip.Addr
	}
	publishKey struct {
		host  netip.Addr
		port  uint16
		proto uint8
	}
	poolKey struct {
		service uint32
		v6      bool
	}
)

// fakeTable is a table in memory.
type fakeTable[E any, K comparable] struct {
	w     *world
	m     map[K]E
	wrote map[K]E
	key   func(E) K
}

func newFakeTable[E any, K comparable](w *world, key func(E) K) *fakeTable[E, K] {
	return &fakeTable[E, K]{w: w, m: make(map[K]E), key: key}
}

func (t *fakeTable[E, K]) PutAll(es []E) (int, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return t.put(es)
}

func (t *fakeTable[E, K]) put(es []E) (int, error) {
	if err := t.w.trip(); err != nil {
		return 0, err
	}
	n := 0
	for _, e := range es {
		if have, ok := t.m[t.key(e)]; !ok || !reflect.DeepEqual(have, e) {
			t.m[t.key(e)] = e
			n++
		}
	}
	t.w.writes += n
	t.wrote = maps.Clone(t.m)
	return n, nil
}

func (t *fakeTable[E, K]) DeleteAll(es []E) (int, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.w.trip(); err != nil {
		return 0, err
	}
	before := len(t.m)
	for _, e := range es {
		delete(t.m, t.key(e))
	}
	t.w.writes += before - len(t.m)
	t.wrote = maps.Clone(t.m)
	return before - len(t.m), nil
}

func (t *fakeTable[E, K]) VerifySome() (int, bool, error) {
	n, err := t.verify()
	return n, false, err
}

func (t *fakeTable[E, K]) verify() (int, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if err := t.w.trip(); err != nil {
		return 0, err
	}
	n, m := 0, t.m
	for k, e := range t.wrote {
		if have, ok := m[k]; !ok || !reflect.DeepEqual(have, e) {
			n++
		}
	}
	for k := range m {
		if _, ok := t.wrote[k]; !ok {
			n++
		}
	}
	t.m = maps.Clone(t.wrote)
	t.w.writes += n
	return n, nil
}

func (t *fakeTable[E, K]) Sync(es []E) (written, deleted int, err error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if written, err = t.put(es); err != nil {
		return 0, 0, err
	}
	keep := make(map[K]bool)
	for _, e := range es {
		keep[t.key(e)] = true
	}
	before := len(t.m)
	maps.DeleteFunc(t.m, func(k K, _ E) bool { return !keep[k] })
	t.w.writes += before - len(t.m)
	t.wrote = maps.Clone(t.m)
	return written, before - len(t.m), nil
}
