// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/pools"
	"github.com/fairlead-net/fairlead/maps/portbits"
	"github.com/fairlead-net/fairlead/maps/table"
)

// Publish maps (host address, port, protocol) to a backend. All of one ID and of one family of host
// addresses have the same backend, apart from its port.
type Publish struct {
	HostIP      netip.Addr // 0.0.0.0 or :: stands for every address of the host
	Port        uint16
	Proto       uint8
	Backend     netip.Addr
	BackendPort uint16
	IfIndex     uint32 // of the backend's host end
	Net         uint32 // network index of the backend
	Node        uint16 // where the backend is; 0, this host, is the only one so far
	ID          uint32
	// Pool means that the backends are a [Pool] with this ID, of the family that IPv6 says; the
	// entry itself has none. BackendPort 0 stands for the port that the client uses.
	Pool bool
	IPv6 bool
	// Direct means that HostIP is not the host's, but the backend's own address, at which the port is open. Of several
	// with one key, which mean the same unless they are limited, the table has a limited one, and of these the one with
	// the lowest ID.
	Direct bool
	// Limited means that only clients from a [Source] with this ID reach it.
	Limited bool
}

// String is for logs.
func (p Publish) String() string {
	return fmt.Sprintf("publish %d: %s proto %d to %s", p.ID,
		netip.AddrPortFrom(p.HostIP, p.Port), p.Proto, netip.AddrPortFrom(p.Backend, p.BackendPort))
}

// firstSlot6 is the slot of the first backend for IPv6 clients; those for IPv4 clients begin at 0.
const firstSlot6 = pools.FirstSlot6

func (p Publish) key() bpf.TCServiceKey {
	return bpf.TCServiceKey{Addr: bpf.IPOf(p.HostIP), Port: swap16(p.Port), Proto: p.Proto}
}

func (p Publish) service() bpf.TCService {
	s := bpf.TCService{Id: p.ID, Port: swap16(p.BackendPort), Count: 1}
	v6 := !p.HostIP.Is4()
	s.Flags = when(p.Direct, uint16(bpf.TCServiceFlagSERVICE_DIRECT)) | when(p.Limited, uint16(bpf.TCServiceFlagSERVICE_FROM))
	if p.Pool {
		s.Count, s.Flags, v6 = 0, uint16(bpf.TCServiceFlagSERVICE_POOL), p.IPv6
	}
	if v6 {
		s.First = firstSlot6
	}
	return s
}

func (p Publish) backend() bpf.TCBackend {
	return bpf.TCBackend{Addr: bpf.IPOf(p.Backend), Ifindex: p.IfIndex, Net: p.Net, Node: p.Node}
}

func publishFrom(k bpf.TCServiceKey, s bpf.TCService, b bpf.TCBackend) Publish {
	if isPool(s) {
		return Publish{
			HostIP: netip.AddrFrom16(k.Addr.B).Unmap(), Port: swap16(k.Port), Proto: k.Proto,
			BackendPort: swap16(s.Port), ID: s.Id, Pool: true, IPv6: s.First == firstSlot6,
		}
	}
	return Publish{
		HostIP: netip.AddrFrom16(k.Addr.B).Unmap(), Port: swap16(k.Port), Proto: k.Proto,
		Backend: b.Addr.Addr(), BackendPort: swap16(s.Port), IfIndex: b.Ifindex, Net: b.Net, Node: b.Node, ID: s.Id,
		Direct: isDirect(s), Limited: isLimited(s),
	}
}

// isPool reports whether the backends of a service are a pool, and not in fl_backend.
func isPool(s bpf.TCService) bool { return s.Flags&uint16(bpf.TCServiceFlagSERVICE_POOL) != 0 }

// isDirect reports whether a service is a port of its backend's own address. Ports of the host are not affected by it, so
// it has no bit.
func isDirect(s bpf.TCService) bool { return s.Flags&uint16(bpf.TCServiceFlagSERVICE_DIRECT) != 0 }

// isLimited reports whether only some clients reach a service.
func isLimited(s bpf.TCService) bool { return s.Flags&uint16(bpf.TCServiceFlagSERVICE_FROM) != 0 }

func slotOf(k bpf.TCServiceKey) portbits.Slot {
	return portbits.SlotOf(swap16(k.Port), k.Proto == unix.IPPROTO_UDP)
}

// backendOf is the key of a service's backend.
func backendOf(s bpf.TCService) bpf.TCBackendKey {
	return bpf.TCBackendKey{Service: s.Id, Slot: uint32(s.First)}
}

// Publishes is fl_service together with fl_backend, which holds the backends that services refer
// to, and fl_portbits, the bit set of ports that are published at any address. Bits and backends
// are written before the first service that needs them, and removed after the last, so that no
// packet misses a service that exists.
type Publishes struct {
	services *table.Table[bpf.TCServiceKey, bpf.TCService]
	backends *table.Table[bpf.TCBackendKey, bpf.TCBackend]

	mu   sync.Mutex
	bits *portbits.Bits
	// How many services there are of each port and protocol, and with each backend.
	ofPort    map[portbits.Slot]int
	ofBackend map[bpf.TCBackendKey]int
	// servicesDue is set while VerifySome has verified the backends of a round, but not the services.
	servicesDue bool
}

func newPublishes(services, backends, bits *ebpf.Map) (*Publishes, error) {
	t := &Publishes{bits: portbits.New(bits)}
	var err error
	if t.backends, err = table.New[bpf.TCBackendKey, bpf.TCBackend](bpf.TCMapFlBackend, backends); err != nil {
		return nil, err
	}
	if t.services, err = table.New[bpf.TCServiceKey, bpf.TCService](bpf.TCMapFlService, services); err != nil {
		return nil, err
	}
	t.recount()
	return t, t.bits.Refresh()
}

// Put makes sure the kernel has the entry. It reports whether it had to write.
func (t *Publishes) Put(p Publish) (written bool, err error) {
	n, err := t.PutAll([]Publish{p})
	return n > 0, err
}

// PutAll is Put for many entries. It returns how many it wrote, backends included.
func (t *Publishes) PutAll(ps []Publish) (written int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	services, backends := split(ps)
	keys := slices.Collect(maps.Keys(services))
	err = t.change(keys, backends, func() error {
		for k, s := range services {
			if isDirect(s) {
				continue
			}
			if err := t.bits.Set(slotOf(k)); err != nil {
				return err
			}
		}
		n, err := t.backends.PutAll(backends)
		if written = n; err != nil {
			return err
		}
		n, err = t.services.PutAll(services)
		written += n
		return err
	})
	return written, err
}

// split returns the entries of fl_service and fl_backend.
func split(ps []Publish) (map[bpf.TCServiceKey]bpf.TCService, map[bpf.TCBackendKey]bpf.TCBackend) {
	services := make(map[bpf.TCServiceKey]bpf.TCService, len(ps))
	backends := make(map[bpf.TCBackendKey]bpf.TCBackend)
	for _, p := range ps {
		k := p.key()
		had, ok := services[k]
		if s := p.service(); !ok || !p.Direct || isLimited(s) && !isLimited(had) || isLimited(s) == isLimited(had) && p.ID < had.Id {
			services[k] = s
		}
	}
	for _, p := range ps {
		if s := p.service(); !isPool(s) && services[p.key()] == s {
			backends[backendOf(s)] = p.backend()
		}
	}
	return services, backends
}

// change runs do, which writes or deletes services that have these keys, and may write these
// backends. Afterwards it removes the bits and the backends that no service needs.
func (t *Publishes) change(keys []bpf.TCServiceKey, backends map[bpf.TCBackendKey]bpf.TCBackend, do func() error) error {
	touched := make(map[bpf.TCBackendKey]bool)
	for b := range backends {
		touched[b] = true
	}
	for _, k := range keys {
		if s, ok := t.services.Get(k); ok {
			t.count(k, s, -1)
			if !isPool(s) {
				touched[backendOf(s)] = true
			}
		}
	}
	errs := []error{do()}
	for _, k := range keys {
		if s, ok := t.services.Get(k); ok {
			t.count(k, s, 1)
		}
	}
	for _, k := range keys {
		if slot := slotOf(k); t.ofPort[slot] == 0 {
			errs = append(errs, t.bits.Clear(slot))
		}
	}
	var unused []bpf.TCBackendKey
	for b := range touched {
		if t.ofBackend[b] == 0 {
			unused = append(unused, b)
		}
	}
	_, err := t.backends.DeleteAll(unused)
	return errors.Join(append(errs, err)...)
}

// count adds a service n times to the numbers of services.
func (t *Publishes) count(k bpf.TCServiceKey, s bpf.TCService, n int) {
	if !isDirect(s) {
		addTo(t.ofPort, slotOf(k), n)
	}
	if !isPool(s) {
		addTo(t.ofBackend, backendOf(s), n)
	}
}

func addTo[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] == 0 {
		delete(m, k)
	}
}

// recount counts all services.
func (t *Publishes) recount() {
	t.ofPort, t.ofBackend = make(map[portbits.Slot]int), make(map[bpf.TCBackendKey]int)
	for k, s := range t.services.Entries() {
		t.count(k, s, 1)
	}
}

// Delete removes a published port; absent is success.
func (t *Publishes) Delete(hostIP netip.Addr, port uint16, proto uint8) (deleted bool, err error) {
	n, err := t.DeleteAll([]Publish{{HostIP: hostIP, Port: port, Proto: proto}})
	return n > 0, err
}

// DeleteAll removes the entries that have the keys of ps, and backends that nothing else needs;
// absent is success. It returns how many ports were published.
func (t *Publishes) DeleteAll(ps []Publish) (deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	services, _ := split(ps)
	keys := slices.Collect(maps.Keys(services))
	err = t.change(keys, nil, func() (err error) {
		deleted, err = t.services.DeleteAll(keys)
		return err
	})
	return deleted, err
}

// Sync makes the kernel's entries, and the bits, exactly desired, after reading all of them back.
// It writes before it deletes, and does not touch correct entries. It counts entries, backends and
// words of bits as written.
func (t *Publishes) Sync(desired []Publish) (written, deleted int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	services, backends := split(desired)
	if err := errors.Join(t.bits.Refresh(), t.backends.Refresh()); err != nil {
		return 0, 0, err
	}
	before, words := t.bits.Writes, t.bits.Words
	for k, s := range services {
		if slot := slotOf(k); !isDirect(s) {
			words[slot.Word] |= slot.Bit
		}
	}
	if err := t.bits.Write(words); err != nil {
		return 0, 0, err
	}
	written, deleted, err = t.syncEntries(services, backends)
	t.recount()
	if err == nil {
		words = [portbits.NumWords]uint64{}
		for s := range t.ofPort {
			words[s.Word] |= s.Bit
		}
		err = t.bits.Write(words)
	}
	return written + t.bits.Writes - before, deleted, err
}

// syncEntries writes backends before the services that refer to them, and deletes them after. If
// there is no room otherwise, it deletes first.
func (t *Publishes) syncEntries(services map[bpf.TCServiceKey]bpf.TCService, backends map[bpf.TCBackendKey]bpf.TCBackend) (written, deleted int, err error) {
	written, err = t.backends.PutAll(backends)
	if err != nil && !errors.Is(err, table.ErrFull) {
		return written, 0, err
	}
	for _, sync := range []func() (int, int, error){
		func() (int, int, error) { return t.services.Sync(services) },
		func() (int, int, error) { return t.backends.Sync(backends) },
	} {
		w, d, err := sync()
		written, deleted = written+w, deleted+d
		if err != nil {
			return written, deleted, err
		}
	}
	return written, deleted, nil
}

// Verify reads all entries and bits back and restores those that another process changed. It
// counts as Sync does.
func (t *Publishes) Verify() (restored int, err error) {
	restored, _, err = t.verify(func() (int, bool, error) {
		n, err := t.backends.Verify()
		if err != nil {
			return n, false, err
		}
		more, err := t.services.Verify()
		return n + more, false, err
	})
	return restored, err
}

// VerifySome verifies all bits and the next part of a large table, and reports whether more parts
// are left in this round.
func (t *Publishes) VerifySome() (restored int, more bool, err error) {
	return t.verify(func() (restored int, more bool, err error) {
		if !t.servicesDue {
			restored, more, err = t.backends.VerifySome()
			if more || err != nil {
				return restored, more, err
			}
		}
		n, more, err := t.services.VerifySome()
		t.servicesDue = more
		return restored + n, more, err
	})
}

func (t *Publishes) verify(entries func() (int, bool, error)) (restored int, more bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, words := t.bits.Writes, t.bits.Words
	if err := t.bits.Refresh(); err != nil {
		return 0, false, err
	}
	if err := t.bits.Write(words); err != nil {
		return 0, false, err
	}
	restored, more, err = entries()
	return restored + t.bits.Writes - before, more, err
}

// List returns all entries, in no particular order.
func (t *Publishes) List() []Publish {
	t.mu.Lock()
	defer t.mu.Unlock()
	services, backends := t.services.Entries(), t.backends.Entries()
	ps := make([]Publish, 0, len(services))
	for k, s := range services {
		ps = append(ps, publishFrom(k, s, backends[backendOf(s)]))
	}
	return ps
}

// Refresh reads all entries back from the kernel.
func (t *Publishes) Refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := errors.Join(t.bits.Refresh(), t.backends.Refresh(), t.services.Refresh())
	t.recount()
	return err
}

// Len returns the number of published ports.
func (t *Publishes) Len() int { return t.services.Len() }

// MaxEntries returns how many published ports the tables have room for.
func (t *Publishes) MaxEntries() int { return t.services.MaxEntries() }
