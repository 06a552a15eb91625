// SPDX-License-Identifier: Apache-2.0

// Package tc attaches programs as clsact filters, and limits the bandwidth of devices by qdiscs.
package tc

import (
	"errors"
	"fmt"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Priority and handle of Fairlead's filter on a clsact qdisc. The priority is not 1, which most
// other programs use.
const (
	filterPriority = 0x666c
	filterHandle   = 1
)

// Filters attaches programs to devices of one network namespace.
type Filters struct{ nl *netlink.Handle }

// NewFilters returns the Filters of the handle's namespace, valid until the handle is closed.
func NewFilters(h *rtnl.Handle) Filters { return Filters{h.TC()} }

// ReplaceFilter attaches a program as a direct-action filter to a device's clsact qdisc, which is
// added if it is missing. A filter that already has the program is kept; another filter of
// Fairlead's is replaced in place, without a gap.
func (f Filters) ReplaceFilter(ifindex int, egress bool, name string, fd int, progID uint32) (bool, error) {
	for _, have := range f.filters(ifindex, egress) {
		if have.Priority == filterPriority && have.DirectAction && uint32(have.Id) == progID && have.Name == name {
			return false, nil
		}
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	if err := f.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add clsact qdisc to device %d: %w", ifindex, deviceError(err))
	}
	err := f.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  filterAttrs(ifindex, egress),
		Fd:           fd,
		Name:         name,
		DirectAction: true,
	})
	if err != nil {
		return false, fmt.Errorf("attach filter %q to device %d: %w", name, ifindex, deviceError(err))
	}
	return true, nil
}

// RemoveFilter removes Fairlead's filter from a device and, if qdisc is set, the clsact qdisc,
// unless another program has a filter there. A missing filter is not an error. When the qdisc is
// removed, a device that is up loses sent packets for some milliseconds, because the kernel
// deactivates it (qdisc_graft).
func (f Filters) RemoveFilter(ifindex int, egress bool, name string, qdisc bool) error {
	found := false
	for _, have := range f.filters(ifindex, egress) {
		found = found || have.Priority == filterPriority && have.Name == name
	}
	if !found {
		return nil
	}
	err := f.nl.FilterDel(&netlink.BpfFilter{FilterAttrs: filterAttrs(ifindex, egress), Fd: -1})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(deviceError(err), rtnl.ErrNoDevice) {
		return fmt.Errorf("remove filter %q from device %d: %w", name, ifindex, err)
	}
	if !qdisc {
		return nil
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if fs, err := f.nl.FilterList(link, parent); err != nil || len(fs) > 0 {
			return nil
		}
	}
	err = f.nl.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(deviceError(err), rtnl.ErrNoDevice) {
		return fmt.Errorf("remove clsact qdisc from device %d: %w", ifindex, err)
	}
	return nil
}

// filters lists a device's BPF filters of one direction. There are none without a qdisc.
func (f Filters) filters(ifindex int, egress bool) []*netlink.BpfFilter {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := f.nl.FilterList(link, filterParent(egress))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	var out []*netlink.BpfFilter
	for _, filter := range all {
		if b, ok := filter.(*netlink.BpfFilter); ok {
			out = append(out, b)
		}
	}
	return out
}

func filterParent(egress bool) uint32 {
	if egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func filterAttrs(ifindex int, egress bool) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: ifindex,
		Parent:    filterParent(egress),
		Handle:    filterHandle,
		Priority:  filterPriority,
		Protocol:  unix.ETH_P_ALL,
	}
}

// deviceError maps the error for a removed device to ErrNoDevice. Traffic control returns ENODEV, or
// EINVAL for an index that never existed.
func deviceError(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return rtnl.ErrNoDevice
	}
	return err
}
