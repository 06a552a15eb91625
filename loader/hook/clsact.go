// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/loader/bpffs"
)

// Filters adds and removes filters of the clsact qdisc, through netlink.
type Filters interface {
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

// clsact attaches programs with filters of the clsact qdisc.
type clsact struct {
	dir     string
	filters Filters
}

func newClsact(cfg Config) *clsact {
	return &clsact{dir: filepath.Join(cfg.BPFDir, bpffs.FiltersDir), filters: cfg.Filters}
}

func (c *clsact) problem() string {
	if c.filters == nil {
		return "clsact is not available"
	}
	return ""
}

func (c *clsact) pin(at point) string { return filepath.Join(c.dir, at.pinName()) }

// filter returns the name of the hook's filter.
func filter(h Hook) string { return "fl_" + string(h) }

// attach ensures that a device has the filter of a hook. A filter cannot be
// pinned, so its program is pinned instead, as a record that the filter exists. The
// pin is made first, so that every filter has a record.
func (c *clsact) attach(at point, prog *ebpf.Program) (changed bool, err error) {
	id, err := progID(prog)
	if err != nil {
		return false, err
	}
	noted, err := pinFilterProgram(c.pin(at), prog, id)
	if err != nil {
		return false, err
	}
	changed, err = c.filters.ReplaceFilter(at.ifindex, at.hook.egress(), filter(at.hook), prog.FD(), uint32(id))
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
	return true, bpffs.Replace(clone, pin)
}

// detach removes a filter and its record. Fairlead's own devices keep the clsact qdisc until they
// are removed: removing it would lose packets.
func (c *clsact) detach(at point) (changed bool, err error) {
	if _, err := os.Lstat(c.pin(at)); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if c.filters == nil {
		return false, fmt.Errorf("remove filter %q: clsact is not available", filter(at.hook))
	}
	if err := c.filters.RemoveFilter(at.ifindex, at.hook.egress(), filter(at.hook), at.hook != FromEndpoint); err != nil {
		return false, err
	}
	return true, bpffs.Remove(c.pin(at))
}

func (c *clsact) list() ([]Attachment, error) {
	pins, err := pinned(c.dir, parsePinName)
	if err != nil {
		return nil, err
	}
	all := make([]Attachment, len(pins))
	for i, at := range pins {
		// The pin says no more than that the filter exists.
		all[i] = Attachment{IfIndex: at.ifindex, Hook: at.hook, Kind: Clsact, Live: true}
	}
	return all, nil
}
