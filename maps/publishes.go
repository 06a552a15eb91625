// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Publish maps (host address, port, protocol) to a backend.
type Publish struct {
	HostIP      netip.Addr // 0.0.0.0 or :: stands for every address of the host
	Port        uint16
	Proto       uint8
	Backend     netip.Addr
	BackendPort uint16
	IfIndex     uint32 // of the backend's host end
	Net         uint32 // network index of the backend
	ID          uint32
}

// String is for logs.
func (p Publish) String() string {
	return fmt.Sprintf("publish %d: %s proto %d to %s", p.ID,
		netip.AddrPortFrom(p.HostIP, p.Port), p.Proto, netip.AddrPortFrom(p.Backend, p.BackendPort))
}

func (p Publish) raw() (bpf.TCPublishKey, bpf.TCPublish) {
	return publishKey(p.HostIP, p.Port, p.Proto), bpf.TCPublish{
		Addr: toIP(p.Backend), Port: swap16(p.BackendPort),
		Ifindex: p.IfIndex, Net: p.Net, Id: p.ID,
	}
}

func publishKey(hostIP netip.Addr, port uint16, proto uint8) bpf.TCPublishKey {
	return bpf.TCPublishKey{Addr: toIP(hostIP), Port: swap16(port), Proto: proto}
}

func publishFrom(k bpf.TCPublishKey, v bpf.TCPublish) Publish {
	return Publish{
		HostIP: netip.AddrFrom16(k.Addr.B).Unmap(), Port: swap16(k.Port), Proto: k.Proto,
		Backend: fromIP(v.Addr), BackendPort: swap16(v.Port), IfIndex: v.Ifindex, Net: v.Net, ID: v.Id,
	}
}

// Publishes is fl_publish together with fl_portbits, the bit set of ports that are published at
// any address. A port's bit is set before its first entry is written and cleared after its last
// entry is removed, so that no packet misses an entry that exists.
type Publishes struct {
	view view[bpf.TCPublishKey, bpf.TCPublish, Publish]

	mu   sync.Mutex
	bits *portBits
	refs map[portSlot]int // entries by port and protocol
}

func newPublishes(publish, portbits *ebpf.Map) (*Publishes, error) {
	v, err := table.NewView("fl_publish", publish, Publish.raw, publishFrom)
	if err != nil {
		return nil, err
	}
	t := &Publishes{view: v, bits: &portBits{m: portbits}}
	t.recount()
	return t, t.bits.refresh()
}

// Put makes sure the kernel has the entry. It reports whether it had to write.
func (t *Publishes) Put(p Publish) (written bool, err error) {
	n, err := t.PutAll([]Publish{p})
	return n > 0, err
}

// PutAll is Put for many entries. It returns how many it wrote.
func (t *Publishes) PutAll(ps []Publish) (written int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := publishKeys(ps)
	for _, k := range keys {
		if err := t.bits.set(slotOf(k)); err != nil {
			return 0, errors.Join(err, t.clearUnused(keys))
		}
	}
	had := t.which(keys)
	written, err = t.view.PutAll(ps)
	for i, has := range t.which(keys) {
		if has && !had[i] {
			t.refs[slotOf(keys[i])]++
		}
	}
	if err != nil {
		err = errors.Join(err, t.clearUnused(keys))
	}
	return written, err
}

// clearUnused clears the bits of ports that have no entry.
func (t *Publishes) clearUnused(keys []bpf.TCPublishKey) error {
	for _, k := range keys {
		if slot := slotOf(k); t.refs[slot] == 0 {
			if err := t.bits.clear(slot); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete removes a published port; absent is success.
func (t *Publishes) Delete(hostIP netip.Addr, port uint16, proto uint8) (deleted bool, err error) {
	n, err := t.DeleteAll([]Publish{{HostIP: hostIP, Port: port, Proto: proto}})
	return n > 0, err
}

// DeleteAll removes the entries that have the keys of ps; absent is success. It
// returns how many there were.
func (t *Publishes) DeleteAll(ps []Publish) (deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := publishKeys(ps)
	had := t.which(keys)
	deleted, err = t.view.DeleteAll(ps)
	still := t.which(keys)
	for i, k := range keys {
		if !had[i] || still[i] {
			continue
		}
		slot := slotOf(k)
		if t.refs[slot]--; t.refs[slot] > 0 {
			continue
		}
		delete(t.refs, slot)
		if err == nil {
			err = t.bits.clear(slot)
		}
	}
	return deleted, err
}

// Sync makes the kernel's entries, and the bits, exactly desired, after reading all of them back.
// It writes before it deletes, and does not touch correct entries. It counts entries, and words of
// bits as written.
func (t *Publishes) Sync(desired []Publish) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.bits.refresh(); err != nil {
		return 0, 0, err
	}
	before := t.bits.writes
	words := t.bits.words
	for _, k := range publishKeys(desired) {
		s := slotOf(k)
		words[s.word] |= s.bit
	}
	if err := t.bits.write(words); err != nil {
		return 0, 0, err
	}
	written, deleted, err = t.view.Sync(desired)
	t.recount()
	if err == nil {
		words = [portWords]uint64{}
		for s := range t.refs {
			words[s.word] |= s.bit
		}
		err = t.bits.write(words)
	}
	return written + t.bits.writes - before, deleted, err
}

// Verify reads all entries and bits back and restores those that another process changed. It
// counts as Sync does.
func (t *Publishes) Verify() (restored int, err error) {
	restored, _, err = t.verify(func() (int, bool, error) {
		n, err := t.view.Verify()
		return n, false, err
	})
	return restored, err
}

// VerifySome verifies all bits and the next part of a large table, and reports whether more parts
// are left in this round.
func (t *Publishes) VerifySome() (restored int, more bool, err error) {
	return t.verify(t.view.VerifySome)
}

func (t *Publishes) verify(entries func() (int, bool, error)) (restored int, more bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, words := t.bits.writes, t.bits.words
	if err := t.bits.refresh(); err != nil {
		return 0, false, err
	}
	if err := t.bits.write(words); err != nil {
		return 0, false, err
	}
	restored, more, err = entries()
	return restored + t.bits.writes - before, more, err
}

// recount recomputes the number of entries of each port.
func (t *Publishes) recount() {
	t.refs = make(map[portSlot]int)
	for _, p := range t.view.List() {
		k, _ := p.raw()
		t.refs[slotOf(k)]++
	}
}

// which reports for each key whether it has an entry.
func (t *Publishes) which(keys []bpf.TCPublishKey) []bool {
	has := make([]bool, len(keys))
	for i, k := range keys {
		has[i] = t.view.Has(publishFrom(k, bpf.TCPublish{}))
	}
	return has
}

// publishKeys returns the distinct keys of ps.
func publishKeys(ps []Publish) []bpf.TCPublishKey {
	keys := make([]bpf.TCPublishKey, len(ps))
	for i, p := range ps {
		keys[i], _ = p.raw()
	}
	slices.SortFunc(keys, func(a, b bpf.TCPublishKey) int {
		return cmp.Or(bytes.Compare(a.Addr.B[:], b.Addr.B[:]), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return slices.Compact(keys)
}

// List returns all entries, in no particular order.
func (t *Publishes) List() []Publish { return t.view.List() }

// Refresh reads all entries back from the kernel.
func (t *Publishes) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.bits.refresh(); err != nil {
		return err
	}
	err := t.view.Refresh()
	t.recount()
	return err
}

// Len returns the number of entries.
func (t *Publishes) Len() int { return t.view.Len() }

// MaxEntries returns the table's capacity in entries.
func (t *Publishes) MaxEntries() int { return t.view.MaxEntries() }
