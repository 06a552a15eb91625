// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Clsact attaches programs by netlink, for kernels without tcx (before 6.6).
type Clsact interface {
	// ReplaceFilter makes sure the device has a filter of that name with the
	// program behind fd, replacing an earlier program in place. The clsact
	// qdisc is added when it is missing. A filter that has progID already is
	// left alone. It reports whether it had to do anything.
	ReplaceFilter(ifindex int, egress bool, name string, fd int, progID uint32) (changed bool, err error)
	// RemoveFilter makes sure the device has no filter of that name; with qdisc, nor
	// the clsact qdisc, if that bears no other filter. No filter, and no device, is
	// success.
	RemoveFilter(ifindex int, egress bool, name string, qdisc bool) error
}

// attachClsact makes sure the filter of a hook at a device is there. A filter
// cannot be pinned, so its program is, as a note that it exists: before the
// filter, so that none is ever without a note.
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

// pinFilterProgram pins a program, unless it is pinned there.
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
	// Pin a clone: a Program can be pinned once, and ours is in progs-<hash>.
	clone, err := prog.Clone()
	if err != nil {
		return false, err
	}
	defer clone.Close()
	return true, replacePin(clone, pin)
}

// detachFilter removes a filter and the note of it. No filter is success. Fairlead's own
// devices keep the qdisc, for they would lose packets without it, and it goes with them.
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
