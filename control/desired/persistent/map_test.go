// SPDX-License-Identifier: Apache-2.0

package persistent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Random changes beside Go's map: every version keeps what it had, in order, and the difference
// of any two is right.
func TestAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type version struct {
		m     Map[int, int]
		model map[int]int
	}
	versions := []version{{model: map[int]int{}}}
	for step := range 4000 {
		from := versions[r.IntN(len(versions))]
		m, model := from.m, maps.Clone(from.model)
		for range 1 + r.IntN(5) {
			k := r.IntN(300)
			if r.IntN(3) == 0 {
				m = m.Delete(k)
				delete(model, k)
			} else {
				v := r.IntN(4)
				m = m.Put(k, v)
				model[k] = v
			}
		}
		if err := same(m, model); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		other := versions[r.IntN(len(versions))]
		if err := sameDiff(other.m, m, other.model, model); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if len(versions) < 50 {
			versions = append(versions, version{m, model})
		} else {
			versions[r.IntN(len(versions))] = version{m, model}
		}
	}
	for _, v := range versions {
		if err := same(v.m, v.model); err != nil {
			t.Errorf("an old version changed: %v", err)
		}
	}
}

func same(m Map[int, int], model map[int]int) error {
	if m.Len() != len(model) {
		return fmt.Errorf("Len is %d, want %d", m.Len(), len(model))
	}
	var keys []int
	for k, v := range m.All() {
		if got, ok := m.Get(k); !ok || got != v || v != model[k] {
			return fmt.Errorf("key %d has %d, Get says %d, %t; want %d", k, v, got, ok, model[k])
		}
		keys = append(keys, k)
	}
	want := slices.Sorted(maps.Keys(model))
	if !slices.Equal(keys, want) {
		return fmt.Errorf("keys %v, want %v", keys, want)
	}
	for _, from := range []int{-1, 0, 77, 150, 299, 300} {
		i, _ := slices.BinarySearch(want, from)
		var tail []int
		for k := range m.From(from) {
			tail = append(tail, k)
		}
		if !slices.Equal(tail, want[i:]) {
			return fmt.Errorf("from %d on: %v, want %v", from, tail, want[i:])
		}
	}
	return nil
}

func sameDiff(a, b Map[int, int], was, is map[int]int) error {
	last := -1
	changed := map[int]bool{}
	for c := range Diff(a, b) {
		old, had := was[c.Key]
		now, has := is[c.Key]
		if c != (Change[int, int]{c.Key, old, now, had, has}) || had == has && old == now {
			return fmt.Errorf("change %+v, want %d, %t -> %d, %t", c, old, had, now, has)
		}
		if c.Key <= last {
			return fmt.Errorf("key %d comes after %d", c.Key, last)
		}
		last = c.Key
		changed[c.Key] = true
	}
	for k := range 300 {
		old, had := was[k]
		now, has := is[k]
		if differs := had != has || old != now; differs != changed[k] {
			return fmt.Errorf("key %d differs: %t, told: %t", k, differs, changed[k])
		}
	}
	return nil
}

// A caller that stops is not called again.
func TestStops(t *testing.T) {
	var m Map[int, int]
	for i := range 100 {
		m = m.Put(i, i)
	}
	for k := range m.From(10) {
		if k == 20 {
			break
		}
	}
	for c := range Diff(Map[int, int]{}, m) {
		if c.Key == 5 {
			break
		}
	}
	n := 0
	for range m.Values() {
		if n++; n == 3 {
			break
		}
	}
}

// One change of a large map visits few nodes: a difference is found by what is not shared.
func TestDiffVisitsWhatChanged(t *testing.T) {
	var m Map[int, int]
	for i := range 100_000 {
		m = m.Put(i, i)
	}
	changed := m.Put(50_000, 1).Delete(7).Put(200_000, 2)
	allocs := testing.AllocsPerRun(10, func() {
		n := 0
		for range Diff(m, changed) {
			n++
		}
		if n != 3 {
			t.Errorf("%d changes, want 3", n)
		}
	})
	if allocs > 300 { // of splits, of which each costs the depth of the tree
		t.Errorf("the difference of three keys made %.0f allocations", allocs)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var m Map[string, int]
			for i := range size {
				m = m.Put(fmt.Sprintf("%064x", i*2654435761), i)
			}
			key := fmt.Sprintf("%064x", 12345)
			for i := range b.N {
				_ = m.Put(key, -i)
			}
		})
	}
}
