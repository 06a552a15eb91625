// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
)

const (
	portBank  = 1 << 16 / 64 // words of one bank: all protocols but UDP, then UDP
	portWords = 2 * portBank
)

// portSlot identifies the bit of a port and protocol.
type portSlot struct {
	word int
	bit  uint64
}

func slotOf(k bpf.TCServiceKey) portSlot {
	port := swap16(k.Port)
	s := portSlot{word: int(port / 64), bit: 1 << (port % 64)}
	if k.Proto == unix.IPPROTO_UDP {
		s.word += portBank
	}
	return s
}

// portBits is fl_portbits with a cache of the kernel's words.
type portBits struct {
	m      *ebpf.Map
	words  [portWords]uint64
	writes int // words written so far
}

func (b *portBits) refresh() error {
	var words [portWords]uint64
	var cursor ebpf.MapBatchCursor
	_, err := b.m.BatchLookup(&cursor, make([]uint32, portWords), words[:], nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // that is the end
		return fmt.Errorf("read table fl_portbits: %w", err)
	}
	b.words = words
	return nil
}

func (b *portBits) set(s portSlot) error   { return b.writeWord(s.word, b.words[s.word]|s.bit) }
func (b *portBits) clear(s portSlot) error { return b.writeWord(s.word, b.words[s.word]&^s.bit) }

// write makes the kernel's words equal to words.
func (b *portBits) write(words [portWords]uint64) error {
	for i, w := range words {
		if err := b.writeWord(i, w); err != nil {
			return err
		}
	}
	return nil
}

// writeWord writes a word if it differs.
func (b *portBits) writeWord(i int, w uint64) error {
	if w == b.words[i] {
		return nil
	}
	if err := b.m.Update(uint32(i), w, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write to table fl_portbits: %w", err)
	}
	b.words[i] = w
	b.writes++
	return nil
}
