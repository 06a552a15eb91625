// SPDX-License-Identifier: Apache-2.0

package pools

// maglevSizes are the sizes of Maglev tables: primes, so that every step visits all slots.
var maglevSizes = []int{251, 2039, 16381}

// maglevRatio is how many slots a backend has at least, except in the largest table: the numbers
// of slots of two backends then differ by less than one per cent.
const maglevRatio = 100

// maglevSize returns the size of the table for a number of backends.
func maglevSize(backends int) int {
	for _, size := range maglevSizes {
		if backends*maglevRatio <= size {
			return size
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// maglev returns the index of the backend of each slot (Eisenbud et al., NSDI 2016, section 3.4).
// Each backend has an order of its own in which it prefers slots, and all take turns. What a
// backend prefers depends on its ID only, so that few slots of others change when it comes or
// goes. Turns are taken in the order of the IDs.
func maglev(ids []uint64, size int) []int {
	table := make([]int, size)
	for i := range table {
		table[i] = -1
	}
	type turn struct{ at, step int }
	turns := make([]turn, len(ids))
	for i, id := range ids {
		h := mix64(id)
		turns[i] = turn{at: int(h % uint64(size)), step: int(mix64(h)%uint64(size-1)) + 1}
	}
	for filled := 0; filled < size; {
		for i := range turns {
			t := &turns[i]
			for table[t.at] >= 0 {
				t.at = (t.at + t.step) % size
			}
			table[t.at] = i
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

// mix64 is the finalizer of splitmix64, a permutation of 64-bit numbers.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
