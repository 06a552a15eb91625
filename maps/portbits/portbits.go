// SPDX-License-Identifier: Apache-2.0

// Package portbits is fl_portbits: one bit for each port and protocol that is published at an address of the host.
package portbits

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

const (
	Bank     = 1 << 16 / 64 // words of one bank: all protocols but UDP, then UDP
	NumWords = 2 * Bank
)

// Slot identifies the bit of a port and protocol.
type Slot struct {
	Word int
	Bit  uint64
}

// SlotOf returns the slot of a port, of UDP or of all other protocols.
func SlotOf(port uint16, udp bool) Slot {
	s := Slot{Word: int(port / 64), Bit: 1 << (port % 64)}
	if udp {
		s.Word += Bank
	}
	return s
}

// Bits is the table with a cache of the kernel's words.
type Bits struct {
	m      *ebpf.Map
	Words  [NumWords]uint64 // not to be changed
	Writes int              // words written so far
}

// New returns the table in a map. Refresh reads it.
func New(m *ebpf.Map) *Bits { return &Bits{m: m} }

// Refresh reads all words back from the kernel.
func (b *Bits) Refresh() error {
	var words [NumWords]uint64
	var cursor ebpf.MapBatchCursor
	_, err := b.m.BatchLookup(&cursor, make([]uint32, NumWords), words[:], nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // that is the end
		return fmt.Errorf("read table fl_portbits: %w", err)
	}
	b.Words = words
	return nil
}

// Set sets a bit.
func (b *Bits) Set(s Slot) error { return b.writeWord(s.Word, b.Words[s.Word]|s.Bit) }

// Clear clears a bit.
func (b *Bits) Clear(s Slot) error { return b.writeWord(s.Word, b.Words[s.Word]&^s.Bit) }

// Write makes the kernel's words equal to words.
func (b *Bits) Write(words [NumWords]uint64) error {
	for i, w := range words {
		if err := b.writeWord(i, w); err != nil {
			return err
		}
	}
	return nil
}

// writeWord writes a word if it differs.
func (b *Bits) writeWord(i int, w uint64) error {
	if w == b.Words[i] {
		return nil
	}
	if err := b.m.Update(uint32(i), w, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write to table fl_portbits: %w", err)
	}
	b.Words[i] = w
	b.Writes++
	return nil
}
