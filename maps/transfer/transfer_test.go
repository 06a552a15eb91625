// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

func mustMap(tb testing.TB, spec *ebpf.MapSpec) *ebpf.Map {
	tb.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
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

func TestCopy(t *testing.T) {
	spec := &ebpf.MapSpec{Type: ebpf.Hash, Flags: 1, KeySize: 4, ValueSize: 8, MaxEntries: 10000}
	src := mustMap(t, spec)
	want := make(map[uint32]uint64)
	for i := range uint32(9000) {
		want[i] = uint64(i) + 1
		if err := src.Put(i, uint64(i)+1); err != nil {
			t.Fatal(err)
		}
	}
	big := spec.Copy()
	big.MaxEntries = 20000
	dst := mustMap(t, big)
	c, err := New(dst, src, Layout{})
	if err != nil {
		t.Fatal(err)
	}
	if n, lost, err := c.Copy(false); n != 9000 || lost != 0 || err != nil {
		t.Errorf("Copy = %d, %d, %v", n, lost, err)
	}
	if diff := cmp.Diff(want, kernelContents(t, dst)); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}

	if err := errors.Join(src.Put(uint32(1), uint64(77)), src.Put(uint32(9999), uint64(5))); err != nil {
		t.Fatal(err)
	}
	want[9999] = 5 // and 1 is unchanged
	if n, lost, err := c.Copy(true); n != 1 || lost != 0 || err != nil {
		t.Errorf("Copy of what is missing = %d, %d, %v", n, lost, err)
	}
	if diff := cmp.Diff(want, kernelContents(t, dst)); diff != "" {
		t.Errorf("copy of what is missing (-want +got):\n%s", diff)
	}

	want[1] = 77
	if n, lost, err := c.Copy(false); n != 1 || lost != 0 || err != nil {
		t.Errorf("Copy of what has changed = %d, %d, %v", n, lost, err)
	}
	if diff := cmp.Diff(want, kernelContents(t, dst)); diff != "" {
		t.Errorf("copy of what has changed (-want +got):\n%s", diff)
	}

	small := spec.Copy()
	small.MaxEntries = 100
	if c, err = New(mustMap(t, small), src, Layout{}); err != nil {
		t.Fatal(err)
	}
	if n, lost, err := c.Copy(false); n != 100 || lost != 8901 || err != nil {
		t.Errorf("Copy into a smaller map = %d copied, %d lost, %v", n, lost, err)
	}
}
