// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Priority and handle of Fairlead's filter on a clsact qdisc. The priority is not 1, which most
// other programs use.
const (
	filterPriority = 0x666c
	filterHandle   = 1
)

// ReplaceFilter attaches a program as a direct-action filter to a device's clsact qdisc, which is
// added if it is missing. A filter that already has the program is kept; another filter of
// Fairlead's is replaced in place, without a gap.
func (h *Handle) ReplaceFilter(ifindex int, egress bool, name string, fd int, progID uint32) (bool, error) {
	for _, f := range h.filters(ifindex, egress) {
		if f.Priority == filterPriority && f.DirectAction && uint32(f.Id) == progID && f.Name == name {
			return false, nil
		}
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	if err := h.tc.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add clsact qdisc to device %d: %w", ifindex, tcError(err))
	}
	err := h.tc.FilterReplace(&netlink.BpfFilter{
		FilterAttrs:  filterAttrs(ifindex, egress),
		Fd:           fd,
		Name:         name,
		DirectAction: true,
	})
	if err != nil {
		return false, fmt.Errorf("attach filter %q to device %d: %w", name, ifindex, tcError(err))
	}
	return true, nil
}

// RemoveFilter removes Fairlead's filter from a device and, if qdisc is set, the clsact qdisc,
// unless another program has a filter there. A missing filter is not an error. When the qdisc is
// removed, a device that is up loses sent packets for some milliseconds, because the kernel
// deactivates it (qdisc_graft).
func (h *Handle) RemoveFilter(ifindex int, egress bool, name string, qdisc bool) error {
	found := false
	for _, f := range h.filters(ifindex, egress) {
		found = found || f.Priority == filterPriority && f.Name == name
	}
	if !found {
		return nil
	}
	err := h.tc.FilterDel(&netlink.BpfFilter{FilterAttrs: filterAttrs(ifindex, egress), Fd: -1})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(tcError(err), ErrNoDevice) {
		return fmt.Errorf("remove filter %q from device %d: %w", name, ifindex, err)
	}
	if !qdisc {
		return nil
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if fs, err := h.tc.FilterList(link, parent); err != nil || len(fs) > 0 {
			return nil
		}
	}
	err = h.tc.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(tcError(err), ErrNoDevice) {
		return fmt.Errorf("remove clsact qdisc from device %d: %w", ifindex, err)
	}
	return nil
}

// FilterProgram returns the program ID of Fairlead's filter of that name, or 0 if there is no
// such filter.
func (h *Handle) FilterProgram(ifindex int, egress bool, name string) uint32 {
	for _, f := range h.filters(ifindex, egress) {
		if f.Priority == filterPriority && f.Name == name {
			return uint32(f.Id)
		}
	}
	return 0
}

// filters lists a device's BPF filters of one direction. There are none without a qdisc.
func (h *Handle) filters(ifindex int, egress bool) []*netlink.BpfFilter {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := h.tc.FilterList(link, filterParent(egress))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	var out []*netlink.BpfFilter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok {
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

// tcError maps the error for a removed device to ErrNoDevice. Traffic control returns ENODEV, or
// EINVAL for an index that never existed.
func tcError(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return ErrNoDevice
	}
	return err
}
