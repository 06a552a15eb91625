// SPDX-License-Identifier: Apache-2.0

// Package transfer copies entries between maps in the kernel without knowing their types, and converts
// them from one layout to another.
package transfer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Copier copies the entries of a hash to another one repeatedly, while programs write to them.
type Copier struct {
	dst, src *ebpf.Map
	layout   Layout
	// done holds the hashes of the entries that were copied. The next Copy skips them, so that
	// it costs little more than reading them.
	done map[uint64]struct{}
	seed maphash.Seed
}

// New returns a Copier from src to dst, whose keys must have the same size, with values
// converted by layout. The caller closes the maps.
func New(dst, src *ebpf.Map, layout Layout) (*Copier, error) {
	size := src.ValueSize()
	if layout.size != 0 {
		size = layout.size
	}
	if dst.KeySize() != src.KeySize() || dst.ValueSize() != size {
		return nil, errors.New("copy table: keys or values differ in size")
	}
	return &Copier{dst: dst, src: src, layout: layout, done: make(map[uint64]struct{}), seed: maphash.MakeSeed()}, nil
}

// Copy writes entries that are new or changed since the last call. With onlyMissing it keeps
// entries that dst has already, unless their connection has ended: dst would keep such a
// connection for days. It returns how many entries it wrote and for how many dst had no room.
func (c *Copier) Copy(onlyMissing bool) (copied, lost int, err error) {
	err = readRaw(c.src, func(keys, values any, n int) error {
		ks, vs, hashes := c.changed(reflect.ValueOf(keys), reflect.ValueOf(values), n)
		vs = c.layout.values(vs)
		n = ks.Len()
		if n > 0 && !onlyMissing {
			if _, err := c.dst.BatchUpdate(ks.Interface(), vs.Interface(), nil); err == nil {
				copied += n
				c.note(hashes)
				return nil
			}
		}
		for i := range n {
			wrote, err := c.write(ks.Index(i).Addr().Interface(), vs.Index(i), onlyMissing)
			switch {
			case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
				lost++
				continue
			case err != nil:
				return err
			case wrote:
				copied++
				c.note(hashes[i : i+1])
			}
		}
		return nil
	})
	if err != nil {
		return copied, lost, fmt.Errorf("copy table: %w", err)
	}
	return copied, lost, nil
}

// changed moves those of n entries that are not done to the front of the slices, and returns their
// hashes.
func (c *Copier) changed(keys, values reflect.Value, n int) (ks, vs reflect.Value, hashes []uint64) {
	var h maphash.Hash
	h.SetSeed(c.seed)
	for i := range n {
		k, v := keys.Index(i).Bytes(), values.Index(i).Bytes()
		h.Reset()
		h.Write(k)
		h.Write(v)
		sum := h.Sum64()
		if _, ok := c.done[sum]; ok {
			continue
		}
		copy(keys.Index(len(hashes)).Bytes(), k)
		copy(values.Index(len(hashes)).Bytes(), v)
		hashes = append(hashes, sum)
	}
	return keys.Slice(0, len(hashes)), values.Slice(0, len(hashes)), hashes
}

func (c *Copier) note(hashes []uint64) {
	for _, h := range hashes {
		c.done[h] = struct{}{}
	}
}

// write writes one entry and reports whether it did.
func (c *Copier) write(key any, value reflect.Value, onlyMissing bool) (bool, error) {
	flags := ebpf.UpdateAny
	if onlyMissing {
		flags = ebpf.UpdateNoExist
	}
	v := value.Addr().Interface()
	err := c.dst.Update(key, v, flags)
	if errors.Is(err, ebpf.ErrKeyExist) {
		if !hasEnded(c.dst, key, value.Bytes(), c.layout) {
			return false, nil
		}
		err = c.dst.Update(key, v, ebpf.UpdateExist)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) { // removed just now
		return false, nil
	}
	return err == nil, err
}

// hasEnded reports whether a connection that is established in dst has ended by now.
func hasEnded(dst *ebpf.Map, key any, now []byte, layout Layout) bool {
	before, err := dst.LookupBytes(key)
	return err == nil && before != nil && layout.ended(before, now)
}
