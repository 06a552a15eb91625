// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
)

func randomIDs(r *rand.Rand, n int) []uint64 {
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = r.Uint64()
	}
	slices.Sort(ids)
	return ids
}

// slow computes a table as the paper describes it: whole permutations first, then turns.
func slow(ids []uint64, size int) []int {
	orders := make([][]int, len(ids))
	for i, id := range ids {
		offset, skip := mix64(id)%uint64(size), mix64(mix64(id))%uint64(size-1)+1
		for j := range uint64(size) {
			orders[i] = append(orders[i], int((offset+j*skip)%uint64(size)))
		}
	}
	table := slices.Repeat([]int{-1}, size)
	for filled := 0; filled < size; {
		for i := range orders {
			for table[orders[i][0]] >= 0 {
				orders[i] = orders[i][1:]
			}
			table[orders[i][0]] = i
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

func TestMaglevAgainstPaper(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		ids := randomIDs(r, 1+r.IntN(40))
		size := maglevSizes[r.IntN(2)]
		if got, want := maglev(ids, size), slow(ids, size); !slices.Equal(got, want) {
			t.Fatalf("%d backends in %d slots: the tables differ", len(ids), size)
		}
	}
}

// Slots are spread evenly, and few of those that others have change when a backend is removed:
// the share of all slots is at most that of the backend and four per cent.
func TestMaglevDisruption(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{2, 3, 5, 10, 20, 50, 100, 160} {
		ids := randomIDs(r, n)
		size := maglevSize(n)
		before := maglev(ids, size)
		counts := make([]int, n)
		for _, b := range before {
			counts[b]++
		}
		if least, most := slices.Min(counts), slices.Max(counts); most-least > 1 {
			t.Errorf("%d backends have %d to %d of %d slots", n, least, most, size)
		}
		worst := 0.0
		for gone := range ids {
			after := maglev(slices.Delete(slices.Clone(ids), gone, gone+1), size)
			moved := 0
			for slot, b := range before {
				now := after[slot]
				if now >= gone {
					now++
				}
				if b != gone && now != b {
					moved++
				}
			}
			worst = max(worst, float64(moved)/float64(size))
		}
		t.Logf("%3d backends, %5d slots: without one of them at most %.2f %% of the slots of others change", n, size, 100*worst)
		if worst > 0.04 {
			t.Errorf("%d backends: %.2f %% of the slots of others change, want at most 4", n, 100*worst)
		}
	}
}

func newTable(t *testing.T) (*Table, map[string]*ebpf.Map) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes maps")
	}
	spec, err := bpf.LoadTC()
	if err != nil {
		t.Fatal(err)
	}
	maps := map[string]*ebpf.Map{}
	for _, name := range []string{bpf.TCMapFlPool, bpf.TCMapFlMaglev, bpf.TCMapFlMember} {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		maps[name] = m
	}
	table, err := New(maps)
	if err != nil {
		t.Fatal(err)
	}
	return table, maps
}

// members returns which members the kernel's tables give to the slots of a pool.
func members(t *testing.T, maps map[string]*ebpf.Map, p Pool) map[string]int {
	t.Helper()
	var pool bpf.TCPool
	if err := maps[bpf.TCMapFlPool].Lookup(p.key(), &pool); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	count := func(tag uint32) {
		var b bpf.TCBackend
		if err := maps[bpf.TCMapFlMember].Lookup(bpf.TCPoolKey{Pool: p.key(), N: tag}, &b); err != nil {
			t.Fatalf("%v: no backend with tag %#x: %v", p, tag, err)
		}
		got[netip.AddrFrom16(b.Addr.B).Unmap().String()]++
	}
	if pool.Slots == 0 && pool.Only != 0 {
		count(pool.Only)
	}
	// Also the slots behind the last: a program may have read the size of the table before.
	seen := map[uint32]bool{}
	for part := range (pool.Slots + uint32(partSize) - 1) / uint32(partSize) {
		var m bpf.TCMaglev
		if err := maps[bpf.TCMapFlMaglev].Lookup(bpf.TCPoolKey{Pool: p.key(), N: part}, &m); err != nil {
			t.Fatalf("%v: part %d: %v", p, part, err)
		}
		for _, tag := range m.Tag {
			if !seen[tag] {
				count(tag)
			}
			seen[tag] = true
		}
	}
	return got
}

// pool returns a pool of n random members. Some have the same upper half of their IDs, from which
// tags are made.
func pool(r *rand.Rand, service uint32, n int) Pool {
	p := Pool{Service: service, IPv6: r.IntN(2) == 0, Affinity: uint32(r.IntN(2))}
	for i := range n {
		p.Members = append(p.Members, Member{
			ID: uint64(r.IntN(n+1))<<32 | uint64(i), Addr: netip.AddrFrom4([4]byte{10, byte(service), byte(i >> 8), byte(i)}), IfIndex: uint32(i + 1), Net: 7,
		})
	}
	return p
}

// After any change every slot of a pool has one of its members, each member has slots, and nothing
// of earlier pools is left.
func TestPools(t *testing.T) {
	table, maps := newTable(t)
	r := rand.New(rand.NewPCG(5, 6))
	have := map[bpf.TCBackendKey]Pool{}
	check := func(what string) {
		t.Helper()
		parts, backends := 0, 0
		for _, p := range have {
			got := members(t, maps, p)
			if len(got) != len(p.Members) {
				t.Fatalf("%s: %v: slots have %d backends: %v", what, p, len(got), got)
			}
			backends += len(p.Members)
			if n := len(p.Members); n > 1 {
				parts += (maglevSize(n) + partSize - 1) / partSize
			}
		}
		haveParts, _ := table.Parts()
		haveMembers, _ := table.Members()
		if table.Len() != len(have) || haveParts != parts || haveMembers != backends {
			t.Fatalf("%s: %d pools, %d parts, %d members; want %d, %d, %d", what, table.Len(), haveParts, haveMembers, len(have), parts, backends)
		}
	}
	for step := range 80 {
		p := pool(r, uint32(1+r.IntN(3)), r.IntN(25))
		if r.IntN(4) == 0 {
			if _, err := table.DeleteAll([]Pool{p}); err != nil {
				t.Fatal(err)
			}
			delete(have, p.key())
		} else {
			if _, err := table.PutAll([]Pool{p}); err != nil {
				t.Fatal(err)
			}
			have[p.key()] = p
		}
		check(fmt.Sprint("step ", step))
		for _, p := range have {
			if n, err := table.PutAll([]Pool{p}); n != 0 || err != nil {
				t.Fatalf("the same pool again: %d entries written, %v", n, err)
			}
			break
		}
	}
	// A new daemon adopts what is there, without a write, and removes the rest.
	again, err := New(maps)
	if err != nil {
		t.Fatal(err)
	}
	table = again
	check("adopted")
	var all []Pool
	for _, p := range have {
		all = append(all, p)
	}
	if written, deleted, err := again.Sync(all); written+deleted != 0 || err != nil {
		t.Errorf("sync of what is there: %d written, %d deleted, %v", written, deleted, err)
	}
	delete(have, all[0].key())
	if written, deleted, err := again.Sync(all[1:]); written != 0 || deleted == 0 || err != nil {
		t.Errorf("sync without a pool: %d written, %d deleted, %v", written, deleted, err)
	}
	check("synchronized")
	// What another process changes is restored.
	for _, p := range have {
		if err := maps[bpf.TCMapFlPool].Delete(p.key()); err != nil {
			t.Fatal(err)
		}
		break
	}
	if n, err := again.Verify(); n != 1 || err != nil {
		t.Errorf("verified: %d restored, %v", n, err)
	}
	check("verified")
}
