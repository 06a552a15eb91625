// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// recorder is a kernel map that records writes in order and counts calls.
type recorder struct {
	*ebpf.Map
	log   []string
	calls int
}

func (r *recorder) Update(k, v any, f ebpf.MapUpdateFlags) error {
	r.calls++
	r.log = append(r.log, "write")
	return r.Map.Update(k, v, f)
}

func (r *recorder) Delete(k any) error {
	r.calls++
	r.log = append(r.log, "delete")
	return r.Map.Delete(k)
}

func (r *recorder) BatchUpdate(k, v any, o *ebpf.BatchOptions) (int, error) {
	r.calls++
	r.log = append(r.log, "batch-write")
	return r.Map.BatchUpdate(k, v, o)
}

func (r *recorder) BatchDelete(k any, o *ebpf.BatchOptions) (int, error) {
	r.calls++
	r.log = append(r.log, "batch-delete")
	return r.Map.BatchDelete(k, o)
}

func mustMap(tb testing.TB, spec *ebpf.MapSpec) *ebpf.Map {
	tb.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

func mustTable(tb testing.TB, max uint32) (*Table[uint32, uint64], *recorder) {
	tb.Helper()
	r := &recorder{Map: mustMap(tb, &ebpf.MapSpec{
		Type: ebpf.Hash, Flags: 1, KeySize: 4, ValueSize: 8, MaxEntries: max, // BPF_F_NO_PREALLOC
	})}
	table, err := New[uint32, uint64]("test", r)
	if err != nil {
		tb.Fatal(err)
	}
	return table, r
}

func kernelContents(tb testing.TB, m *ebpf.Map) map[uint32]uint64 {
	tb.Helper()
	got := make(map[uint32]uint64)
	var k uint32
	var v uint64
	it := m.Iterate()
	for it.Next(&k, &v) {
		got[k] = v
	}
	if err := it.Err(); err != nil {
		tb.Fatal(err)
	}
	return got
}

func TestTablePutDelete(t *testing.T) {
	table, r := mustTable(t, 100)
	steps := []struct {
		name    string
		do      func() (bool, error)
		changed bool
		calls   int
	}{
		{"put-new", func() (bool, error) { return table.Put(1, 10) }, true, 1},
		{"put-same", func() (bool, error) { return table.Put(1, 10) }, false, 0},
		{"put-other", func() (bool, error) { return table.Put(1, 11) }, true, 1},
		{"delete-absent", func() (bool, error) { return table.Delete(2) }, false, 0},
		{"delete", func() (bool, error) { return table.Delete(1) }, true, 1},
		{"delete-again", func() (bool, error) { return table.Delete(1) }, false, 0},
	}
	for _, s := range steps {
		r.calls = 0
		changed, err := s.do()
		if err != nil || changed != s.changed || r.calls != s.calls {
			t.Errorf("%s: changed %v, %d calls, error %v; want %v, %d", s.name, changed, r.calls, err, s.changed, s.calls)
		}
	}
}

func TestTableDeleteGoneInKernel(t *testing.T) {
	table, r := mustTable(t, 100)
	if _, err := table.Put(1, 10); err != nil {
		t.Fatal(err)
	}
	if err := r.Map.Delete(uint32(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Delete(1); err != nil {
		t.Errorf("delete of an entry that another process removed: %v", err)
	}
}

func TestTableBatches(t *testing.T) {
	table, r := mustTable(t, 20000)
	entries := make(map[uint32]uint64)
	for i := range uint32(10000) {
		entries[i] = uint64(i)
	}
	n, err := table.PutAll(entries)
	if err != nil || n != len(entries) {
		t.Fatalf("PutAll = %d, %v", n, err)
	}
	if r.calls != 3 {
		t.Errorf("%d calls to write 10000 entries, want 3 batches", r.calls)
	}
	if diff := cmp.Diff(entries, kernelContents(t, r.Map)); diff != "" {
		t.Errorf("kernel contents (-want +got):\n%s", diff)
	}
	if n, err := table.PutAll(entries); n != 0 || err != nil {
		t.Errorf("second PutAll = %d, %v", n, err)
	}
	keys := []uint32{99999}
	for i := range uint32(5000) {
		keys = append(keys, i)
	}
	r.calls = 0
	if n, err := table.DeleteAll(keys); n != 5000 || err != nil {
		t.Errorf("DeleteAll = %d, %v", n, err)
	}
	if r.calls != 2 {
		t.Errorf("%d calls to delete 5000 entries, want 2 batches", r.calls)
	}
	if got := len(kernelContents(t, r.Map)); got != 5000 || table.Len() != 5000 {
		t.Errorf("%d entries in the kernel, %d by Len", got, table.Len())
	}
}

func TestTableBatchWithGoneKey(t *testing.T) {
	table, r := mustTable(t, 100)
	entries := make(map[uint32]uint64)
	var keys []uint32
	for i := range uint32(50) {
		entries[i], keys = 1, append(keys, i)
	}
	if _, err := table.PutAll(entries); err != nil {
		t.Fatal(err)
	}
	if err := r.Map.Delete(uint32(25)); err != nil {
		t.Fatal(err)
	}
	if _, err := table.DeleteAll(keys); err != nil {
		t.Errorf("DeleteAll: %v", err)
	}
	if got := kernelContents(t, r.Map); len(got) != 0 || table.Len() != 0 {
		t.Errorf("left over: %v, Len %d", got, table.Len())
	}
}

func TestTableSync(t *testing.T) {
	table, r := mustTable(t, 100)
	for k, v := range map[uint32]uint64{1: 1, 2: 2, 3: 3} {
		if _, err := table.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	// Another process changes one entry, removes one and adds one.
	if err := errors.Join(r.Map.Put(uint32(1), uint64(99)), r.Map.Delete(uint32(2)), r.Map.Put(uint32(7), uint64(7))); err != nil {
		t.Fatal(err)
	}
	desired := map[uint32]uint64{1: 1, 2: 2, 4: 4}
	r.log = nil
	written, deleted, err := table.Sync(desired)
	if err != nil || written != 3 || deleted != 2 {
		t.Errorf("Sync = %d written, %d deleted, %v; want 3, 2", written, deleted, err)
	}
	if want := []string{"write", "write", "write", "delete", "delete"}; !slices.Equal(r.log, want) {
		t.Errorf("order %v, want %v", r.log, want)
	}
	if diff := cmp.Diff(desired, kernelContents(t, r.Map)); diff != "" {
		t.Errorf("kernel contents (-want +got):\n%s", diff)
	}
	r.calls = 0
	if written, deleted, err := table.Sync(desired); written+deleted+r.calls != 0 || err != nil {
		t.Errorf("second Sync = %d, %d, %v with %d calls", written, deleted, err, r.calls)
	}
}

func TestTableVerify(t *testing.T) {
	table, r := mustTable(t, 100)
	want := map[uint32]uint64{1: 1, 2: 2, 3: 3}
	if _, err := table.PutAll(want); err != nil {
		t.Fatal(err)
	}
	r.calls = 0
	if n, err := table.Verify(); n+r.calls != 0 || err != nil {
		t.Errorf("Verify = %d, %v with %d calls; nothing was changed", n, err, r.calls)
	}
	for name, breakIt := range map[string]func() error{
		"changed": func() error { return r.Map.Put(uint32(1), uint64(99)) },
		"removed": func() error { return r.Map.Delete(uint32(2)) },
		"added":   func() error { return r.Map.Put(uint32(7), uint64(7)) },
	} {
		if err := breakIt(); err != nil {
			t.Fatal(err)
		}
		if n, err := table.Verify(); n != 1 || err != nil {
			t.Errorf("%s: Verify = %d, %v; want one restored", name, n, err)
		}
		if diff := cmp.Diff(want, kernelContents(t, r.Map)); diff != "" {
			t.Errorf("%s: kernel contents (-want +got):\n%s", name, diff)
		}
	}
}

// A large table is verified in steps, and a broken entry is restored within a round, even while
// others write.
func TestTableVerifySome(t *testing.T) {
	const size = 3 * verifySize
	table, r := mustTable(t, 2*size)
	want := make(map[uint32]uint64)
	for i := range uint32(size) {
		want[i] = uint64(i)
	}
	if _, err := table.PutAll(want); err != nil {
		t.Fatal(err)
	}
	const turns = 8 // more than a round takes
	for range 2 * turns {
		if n, _, err := table.VerifySome(); n != 0 || err != nil {
			t.Fatalf("VerifySome = %d, %v; nothing was changed", n, err)
		}
	}
	for name, breakIt := range map[string]func() error{
		"changed": func() error { return r.Map.Put(uint32(1), uint64(99)) },
		"removed": func() error { return r.Map.Delete(uint32(2)) },
		"added":   func() error { return r.Map.Put(uint32(size+7), uint64(7)) },
	} {
		for _, busy := range []bool{false, true} {
			if err := breakIt(); err != nil {
				t.Fatal(err)
			}
			restored := 0
			for i := range (maxSkipped + 1) * turns {
				if busy {
					want[3] = uint64(i)
					if _, err := table.Put(3, uint64(i)); err != nil {
						t.Fatal(err)
					}
				}
				n, _, err := table.VerifySome()
				if err != nil {
					t.Fatal(err)
				}
				restored += n
			}
			if restored != 1 {
				t.Errorf("%s, busy %t: %d restored, want 1", name, busy, restored)
			}
			if diff := cmp.Diff(want, kernelContents(t, r.Map)); diff != "" {
				t.Errorf("%s, busy %t: kernel contents (-want +got):\n%s", name, busy, diff)
			}
		}
	}
}

// BenchmarkVerifySome shows that a step costs the same, however large the table is.
func BenchmarkVerifySome(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			table, _ := mustTable(b, uint32(2*size))
			entries := make(map[uint32]uint64)
			for i := range uint32(size) {
				entries[i] = 1
			}
			if _, err := table.PutAll(entries); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if n, _, err := table.VerifySome(); n != 0 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func TestTableFull(t *testing.T) {
	table, r := mustTable(t, 8)
	entries := make(map[uint32]uint64)
	for i := range uint32(8) {
		entries[i] = 1
	}
	if _, err := table.PutAll(entries); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Put(100, 1); !errors.Is(err, ErrFull) {
		t.Errorf("Put into a full table: %v, want ErrFull", err)
	}
	// There is room for the desired entries only after the stale ones are removed.
	desired := make(map[uint32]uint64)
	for i := range uint32(8) {
		desired[i+4] = 2
	}
	written, deleted, err := table.Sync(desired)
	if err != nil || written != 8 || deleted != 4 {
		t.Errorf("Sync = %d written, %d deleted, %v; want 8, 4", written, deleted, err)
	}
	if diff := cmp.Diff(desired, kernelContents(t, r.Map)); diff != "" {
		t.Errorf("kernel contents (-want +got):\n%s", diff)
	}
	desired[50] = 1
	if _, _, err := table.Sync(desired); !errors.Is(err, ErrFull) {
		t.Errorf("Sync of too many: %v, want ErrFull", err)
	}
}

// Random operations, compared with a plain Go map.
func TestTableAgainstModel(t *testing.T) {
	table, r := mustTable(t, 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	model := make(map[uint32]uint64)
	randomMap := func(n int) map[uint32]uint64 {
		m := make(map[uint32]uint64)
		for range n {
			m[rng.Uint32N(64)] = rng.Uint64N(3)
		}
		return m
	}
	for step := range 500 {
		var err error
		switch k := rng.Uint32N(64); rng.IntN(6) {
		case 0:
			_, err = table.Put(k, 5)
			model[k] = 5
		case 1:
			_, err = table.Delete(k)
			delete(model, k)
		case 2:
			m := randomMap(rng.IntN(60))
			_, err = table.PutAll(m)
			for k, v := range m {
				model[k] = v
			}
		case 3:
			var keys []uint32
			for k := range randomMap(rng.IntN(60)) {
				keys = append(keys, k)
				delete(model, k)
			}
			_, err = table.DeleteAll(keys)
		case 4:
			model = randomMap(rng.IntN(60))
			_, _, err = table.Sync(model)
			model = table.Entries()
		case 5: // another process writes; Sync repairs it
			err = r.Map.Put(k, uint64(9))
			if _, _, serr := table.Sync(model); err == nil {
				err = serr
			}
		}
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if diff := cmp.Diff(model, kernelContents(t, r.Map)); diff != "" {
			t.Fatalf("step %d: kernel contents (-want +got):\n%s", step, diff)
		}
		if diff := cmp.Diff(model, table.Entries()); diff != "" {
			t.Fatalf("step %d: cache (-want +got):\n%s", step, diff)
		}
	}
}

// Whatever depends on a table learns of each change, also of one that failed, and of nothing else.
func TestOnWrite(t *testing.T) {
	table, _ := mustTable(t, 2)
	calls := 0
	table.OnWrite(func() error { calls++; return nil })
	after := func(what string, want int) {
		t.Helper()
		if calls != want {
			t.Errorf("%s: %d calls, want %d", what, calls, want)
		}
		calls = 0
	}
	write := func(entries map[uint32]uint64) {
		if _, err := table.PutAll(entries); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	write(map[uint32]uint64{1: 1, 2: 2})
	after("two entries", 1)
	write(map[uint32]uint64{1: 1, 2: 2})
	after("the same entries", 0)
	write(map[uint32]uint64{3: 3})
	after("an entry for which there is no room", 1)
	for _, want := range []int{1, 0} {
		if _, err := table.Delete(1); err != nil {
			t.Fatal(err)
		}
		after("delete", want)
	}
	if _, _, err := table.Sync(map[uint32]uint64{2: 2, 4: 4}); err != nil {
		t.Fatal(err)
	}
	after("sync", 1)
}
