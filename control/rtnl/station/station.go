// SPDX-License-Identifier: Apache-2.0

// Package station has devices of the host accept frames to MACs besides their own: those of members of networks on
// their links. The kernel does not say which program added a MAC, so each has a record, an empty file in a
// directory, from before it is added until after it is deleted.
package station

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Group returns the MAC to which neighbours of an IPv6 address send their solicitations for it (RFC 4291 section 2.7.1,
// RFC 2464 section 7).
func Group(a netip.Addr) model.MAC {
	b := a.As16()
	return model.MAC{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}

// Filters are the receive filters of the devices. Methods must not be called concurrently for one device.
type Filters struct {
	nl  *rtnl.Handle
	dir string
}

// New returns the filters whose records are in a directory. It changes nothing.
func New(nl *rtnl.Handle, dir string) *Filters { return &Filters{nl, dir} }

// Ensure has a device accept frames to these MACs, and to no others that have a record. It returns how many were missing.
func (f *Filters) Ensure(device uint32, want []model.MAC) (added int, err error) {
	have, err := f.accepted(device)
	if err != nil {
		return 0, err
	}
	keep := make(map[model.MAC]bool)
	for _, mac := range want {
		if keep[mac] || have[mac] {
			keep[mac] = true
			continue
		}
		keep[mac] = true
		if err := f.note(device, mac); err != nil {
			return added, err
		}
		if err := f.nl.TC().NeighAppend(entry(device, mac)); err != nil {
			return added, fmt.Errorf("have device %d accept frames to %v: %w", device, mac, err)
		}
		added++
	}
	return added, f.each(func(at uint32, mac model.MAC) error {
		if at != device || keep[mac] {
			return nil
		}
		return f.drop(at, mac)
	})
}

// Sweep deletes the MACs that have a record from all devices but these.
func (f *Filters) Sweep(keep []uint32) error {
	return f.each(func(device uint32, mac model.MAC) error {
		if slices.Contains(keep, device) {
			return nil
		}
		return f.drop(device, mac)
	})
}

// Clear deletes all MACs that have a record.
func (f *Filters) Clear() error {
	if err := f.Sweep(nil); err != nil {
		return err
	}
	if err := os.Remove(f.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove records of MACs: %w", err)
	}
	return nil
}

// accepted returns the MACs that a device accepts besides its own.
func (f *Filters) accepted(device uint32) (map[model.MAC]bool, error) {
	list, err := f.nl.TC().NeighList(int(device), unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("list the MACs that device %d accepts: %w", device, err)
	}
	have := make(map[model.MAC]bool)
	for _, n := range list {
		if n.Flags&netlink.NTF_SELF != 0 && len(n.HardwareAddr) == len(model.MAC{}) {
			have[model.MAC(n.HardwareAddr)] = true
		}
	}
	return have, nil
}

func entry(device uint32, mac model.MAC) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: int(device), Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: net.HardwareAddr(mac[:]),
	}
}

// drop deletes a MAC and its record. Either may be missing, and so may the device.
func (f *Filters) drop(device uint32, mac model.MAC) error {
	err := f.nl.TC().NeighDel(entry(device, mac))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("have device %d no longer accept frames to %v: %w", device, mac, err)
	}
	if err := os.Remove(f.record(device, mac)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of a MAC: %w", err)
	}
	return nil
}

func (f *Filters) record(device uint32, mac model.MAC) string {
	return filepath.Join(f.dir, fmt.Sprintf("%d-%x", device, mac[:]))
}

func (f *Filters) note(device uint32, mac model.MAC) error {
	err := os.MkdirAll(f.dir, 0o700)
	if err == nil {
		err = os.WriteFile(f.record(device, mac), nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record a MAC: %w", err)
	}
	return nil
}

// each calls fn for each record.
func (f *Filters) each(fn func(device uint32, mac model.MAC) error) error {
	files, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read records of MACs: %w", err)
	}
	var errs []error
	for _, file := range files {
		index, hex, _ := strings.Cut(file.Name(), "-")
		device, err := strconv.ParseUint(index, 10, 32)
		mac, hexErr := strconv.ParseUint(hex, 16, 48)
		if err != nil || hexErr != nil {
			continue // not a record
		}
		var m model.MAC
		for i := range m {
			m[i] = byte(mac >> (8 * (len(m) - 1 - i)))
		}
		errs = append(errs, fn(uint32(device), m))
	}
	return errors.Join(errs...)
}
