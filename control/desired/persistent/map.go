// SPDX-License-Identifier: Apache-2.0

// Package persistent provides an ordered map that a change does not modify: it returns a new
// version and leaves the old one valid. The new version copies O(log n) nodes and shares the
// others, so the time that Diff needs depends on the changes between two versions, not on their
// size.
package persistent

import (
	"cmp"
	"hash/maphash"
	"iter"
)

// Map is one version. The zero Map is empty. Versions may be read from any number of
// goroutines; a change returns another version.
type Map[K cmp.Ordered, V comparable] struct {
	root *node[K, V]
	size int
}

// node is a node of a treap: ordered by key, a heap by priority. The priority follows from the
// key, so two maps with the same keys have the same shape, whatever order they were filled in:
// that is what makes Diff find the parts they share.
type node[K cmp.Ordered, V comparable] struct {
	key         K
	value       V
	priority    uint64
	left, right *node[K, V]
}

var seed = maphash.MakeSeed()

// above reports whether a is to be nearer to the root than b.
func above[K cmp.Ordered, V comparable](a, b *node[K, V]) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.key > b.key
}

// Len is the number of keys.
func (m Map[K, V]) Len() int { return m.size }

// Get returns the value of a key.
func (m Map[K, V]) Get(key K) (value V, ok bool) {
	for n := m.root; n != nil; {
		switch {
		case key < n.key:
			n = n.left
		case key > n.key:
			n = n.right
		default:
			return n.value, true
		}
	}
	return value, false
}

// Put returns a version in which the key has the value.
func (m Map[K, V]) Put(key K, value V) Map[K, V] {
	old, ok := m.Get(key)
	if ok && old == value {
		return m
	}
	if !ok {
		m.size++
	}
	m.root = put(m.root, &node[K, V]{key: key, value: value, priority: maphash.Comparable(seed, key)})
	return m
}

// put returns t with n in it. The path to n is copied.
func put[K cmp.Ordered, V comparable](t, n *node[K, V]) *node[K, V] {
	switch {
	case t == nil:
		return n
	case t.key == n.key:
		n.left, n.right = t.left, t.right
		return n
	case above(n, t):
		// t has no such key: what has it would be above t's children, and at t at least.
		n.left, n.right = split(t, n.key)
		return n
	}
	c := *t
	if n.key < t.key {
		c.left = put(t.left, n)
	} else {
		c.right = put(t.right, n)
	}
	return &c
}

// split returns what of t is below and above the key, which t may have; it is in neither part.
func split[K cmp.Ordered, V comparable](t *node[K, V], key K) (below, above *node[K, V]) {
	switch {
	case t == nil:
		return nil, nil
	case key < t.key:
		c := *t
		below, c.left = split(t.left, key)
		return below, &c
	case key > t.key:
		c := *t
		c.right, above = split(t.right, key)
		return &c, above
	}
	return t.left, t.right
}

// Delete returns a version without the key.
func (m Map[K, V]) Delete(key K) Map[K, V] {
	if _, ok := m.Get(key); !ok {
		return m
	}
	m.root = remove(m.root, key)
	m.size--
	return m
}

// remove returns t without the key, which it has.
func remove[K cmp.Ordered, V comparable](t *node[K, V], key K) *node[K, V] {
	if t.key == key {
		return join(t.left, t.right)
	}
	c := *t
	if key < t.key {
		c.left = remove(t.left, key)
	} else {
		c.right = remove(t.right, key)
	}
	return &c
}

// join returns a and b as one; every key of a is below those of b.
func join[K cmp.Ordered, V comparable](a, b *node[K, V]) *node[K, V] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case above(a, b):
		c := *a
		c.right = join(a.right, b)
		return &c
	}
	c := *b
	c.left = join(a, b.left)
	return &c
}

// All yields keys and values in the order of the keys.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { walk(m.root, yield) }
}

// Values yields the values in the order of the keys.
func (m Map[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		walk(m.root, func(_ K, v V) bool { return yield(v) })
	}
}

// From yields keys, from the given one on, and values, in order.
func (m Map[K, V]) From(key K) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { walkFrom(m.root, key, yield) }
}

func walk[K cmp.Ordered, V comparable](t *node[K, V], yield func(K, V) bool) bool {
	return t == nil || walk(t.left, yield) && yield(t.key, t.value) && walk(t.right, yield)
}

func walkFrom[K cmp.Ordered, V comparable](t *node[K, V], key K, yield func(K, V) bool) bool {
	switch {
	case t == nil:
		return true
	case t.key < key:
		return walkFrom(t.right, key, yield)
	}
	return walkFrom(t.left, key, yield) && yield(t.key, t.value) && walk(t.right, yield)
}

// Change is one key that two versions differ in.
type Change[K cmp.Ordered, V comparable] struct {
	Key      K
	Old, New V    // the zero value where the key is absent
	Had, Has bool // it is in the old version, in the new one
}

// Diff yields what differs between an old version and a new one, in the order of the keys.
func Diff[K cmp.Ordered, V comparable](from, to Map[K, V]) iter.Seq[Change[K, V]] {
	return func(yield func(Change[K, V]) bool) { diff(from.root, to.root, yield) }
}

func diff[K cmp.Ordered, V comparable](a, b *node[K, V], yield func(Change[K, V]) bool) bool {
	switch {
	case a == b:
		return true
	case a == nil:
		return walk(b, func(k K, v V) bool { return yield(Change[K, V]{Key: k, New: v, Has: true}) })
	case b == nil:
		return walk(a, func(k K, v V) bool { return yield(Change[K, V]{Key: k, Old: v, Had: true}) })
	case a.key == b.key:
		return diff(a.left, b.left, yield) &&
			(a.value == b.value || yield(Change[K, V]{a.key, a.value, b.value, true, true})) &&
			diff(a.right, b.right, yield)
	case above(a, b): // b does not have a's key: it would be b's root
		left, right := split(b, a.key)
		return diff(a.left, left, yield) && yield(Change[K, V]{Key: a.key, Old: a.value, Had: true}) &&
			diff(a.right, right, yield)
	}
	left, right := split(a, b.key)
	return diff(left, b.left, yield) && yield(Change[K, V]{Key: b.key, New: b.value, Has: true}) &&
		diff(right, b.right, yield)
}
