// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/table"
)

// hostAddr is an address of the host; its value in the kernel is always 1.
type hostAddr netip.Addr

func (a hostAddr) raw() (bpf.TCIp, uint32) { return bpf.IPOf(netip.Addr(a)), 1 }

// HostAddrs is fl_hostaddr: the addresses of the host itself.
type HostAddrs struct {
	v view[bpf.TCIp, uint32, hostAddr]
}

func newHostAddrs(name string, m *ebpf.Map) (*HostAddrs, error) {
	v, err := table.NewView(name, m, hostAddr.raw, func(k bpf.TCIp, _ uint32) hostAddr { return hostAddr(k.Addr()) })
	return &HostAddrs{v: v}, err
}

// Put makes sure the kernel has the address. It reports whether it had to write.
func (t *HostAddrs) Put(a netip.Addr) (written bool, err error) { return t.v.Put(hostAddr(a)) }

// Delete removes an address; absent is success.
func (t *HostAddrs) Delete(a netip.Addr) (deleted bool, err error) { return t.v.Delete(hostAddr(a)) }

// Sync makes the kernel's addresses exactly desired, after reading all of them
// back.
func (t *HostAddrs) Sync(desired []netip.Addr) (written, deleted int, err error) {
	all := make([]hostAddr, len(desired))
	for i, a := range desired {
		all[i] = hostAddr(a)
	}
	return t.v.Sync(all)
}

// List returns all addresses, in no particular order.
func (t *HostAddrs) List() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range t.v.List() {
		addrs = append(addrs, netip.Addr(a))
	}
	return addrs
}

// Refresh reads all entries back from the kernel.
func (t *HostAddrs) Refresh() error { return t.v.Refresh() }

// Len returns the number of entries.
func (t *HostAddrs) Len() int { return t.v.Len() }

// MaxEntries returns the table's capacity in entries.
func (t *HostAddrs) MaxEntries() int { return t.v.MaxEntries() }
