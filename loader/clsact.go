// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Clsact attaches programs through netlink, for kernels without tcx (before 6.6).
type Clsact interface {
	// ReplaceFilter ensures that the device has a filter of that name with the
	// program behind fd, replacing an earlier program in place. It adds the clsact
	// qdisc if that is missing, and does not touch a filter that has progID
	// already. It reports whether it changed anything.
	ReplaceFilter(ifindex int, egress bool, name string, fd int, progID uint32) (changed bool, err error)
	// RemoveFilter ensures that the device has no filter of that name. With qdisc
	// it also removes the clsact qdisc, unless that has other filters. It succeeds if
	// the filter or the device does not exist.
	RemoveFilter(ifindex int, egress bool, name string, qdisc bool) error
}

// attachClsact ensures that a device has the filter of a hook. A filter cannot be
// pinned, so its program is pinned instead, as a record that the filter exists. The
// pin is made first, so that every filter has a record.
func (d *Datapath) attachClsact(ifindex int, h Hook) (changed bool, err error) {
	prog := d.progs[h.String()]
	id, err := progID(prog)
	if err != nil {
		return false, err
	}
	pin := filepath.Join(d.dir, filtersDir, h.pinName(ifindex))
	noted, err := pinFilterProgram(pin, prog, id)
	if err != nil {
		return false, err
	}
	changed, err = d.clsact.ReplaceFilter(ifindex, h.egress(), h.filter(), prog.FD(), uint32(id))
	return changed || noted, err
}

// pinFilterProgram pins a filter's program, unless it is pinned already.
func pinFilterProgram(pin string, prog *ebpf.Program, id ebpf.ProgramID) (changed bool, err error) {
	noted, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err == nil {
		defer noted.Close()
		have, err := progID(noted)
		if err != nil {
			return false, err
		}
		if have == id {
			return false, nil
		}
	}
	// Pin a clone: a Program can be pinned once only, and this one is in progs-<hash>.
	clone, err := prog.Clone()
	if err != nil {
		return false, err
	}
	defer clone.Close()
	return true, replacePin(clone, pin)
}

// detachFilter removes a filter and its record. It succeeds if the filter does not exist.
// Fairlead's own devices keep the clsact qdisc until they are removed: removing it would
// lose packets.
func detachFilter(dir string, ifindex int, h Hook, c Clsact) (changed bool, err error) {
	pin := filepath.Join(dir, filtersDir, h.pinName(ifindex))
	if _, err := os.Lstat(pin); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if c == nil {
		return false, fmt.Errorf("remove filter %q: clsact is not available", h.filter())
	}
	if err := c.RemoveFilter(ifindex, h.egress(), h.filter(), h != FromEndpoint); err != nil {
		return false, err
	}
	return true, removePin(pin)
}
