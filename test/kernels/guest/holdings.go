// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// holdings lists the kernel's objects of the kinds that Fairlead makes or changes, one per
// line.
func holdings() ([]string, error) {
	lists := []func() ([]string, error){programs, devices, addresses, routes, mounts, switchboard, runtimeFiles}
	var all []string
	for _, list := range lists {
		lines, err := list()
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	return all, nil
}

// difference returns what only one of two lists contains.
func difference(before, after []string) (gone, made []string) {
	for _, line := range before {
		if !slices.Contains(after, line) {
			gone = append(gone, line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			made = append(made, line)
		}
	}
	return gone, made
}

// programs lists BPF programs and maps by name and ID.
func programs() ([]string, error) {
	var lines []string
	var prog ebpf.ProgramID
	var table ebpf.MapID
	var err error
	for prog, err = ebpf.ProgramGetNextID(0); err == nil; prog, err = ebpf.ProgramGetNextID(prog) {
		lines = append(lines, fmt.Sprintf("program %d %s", prog, programName(prog)))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list programs: %w", err)
	}
	for table, err = ebpf.MapGetNextID(0); err == nil; table, err = ebpf.MapGetNextID(table) {
		lines = append(lines, fmt.Sprintf("map %d %s", table, mapName(table)))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list maps: %w", err)
	}
	return lines, nil
}

// nothingLoaded checks that the kernel has freed all programs and tables, which it does
// asynchronously. The garbage collector unmaps read-only data that this process has mapped.
func nothingLoaded() error {
	runtime.GC()
	left, err := programs()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("still loaded: %s", strings.Join(left, ", "))
	}
	return err
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err.Error()
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return err.Error()
	}
	return info.Name
}

func mapName(id ebpf.MapID) string {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err.Error()
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return err.Error()
	}
	return info.Name
}

// devices lists devices, queueing disciplines and filters.
func devices() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var lines []string
	for _, l := range links {
		name := l.Attrs().Name
		lines = append(lines, fmt.Sprintf("device %s %s %q", name, l.Type(), l.Attrs().Alias))
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return nil, fmt.Errorf("list qdiscs of %s: %w", name, err)
		}
		for _, q := range qdiscs {
			lines = append(lines, fmt.Sprintf("qdisc of %s %s", name, q.Type()))
		}
	}
	return lines, nil
}

func addresses() ([]string, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var lines []string
	for _, a := range list {
		lines = append(lines, fmt.Sprintf("address %s of device %d", a.IPNet, a.LinkIndex))
	}
	return lines, nil
}

func routes() ([]string, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var lines []string
	for _, r := range list {
		lines = append(lines, fmt.Sprintf("route %s via %s dev %d table %d protocol %d", r.Dst, r.Gw, r.LinkIndex, r.Table, r.Protocol))
	}
	return lines, nil
}

// mounts lists all mounts except for the bpffs at its usual place: the first program that
// needs it mounts it for all.
func mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "bpf /sys/fs/bpf bpf ") {
			lines = append(lines, "mount "+strings.TrimSpace(line))
		}
	}
	return lines, nil
}

// switchboard lists the sysctls of all devices together, and the defaults for new ones.
func switchboard() ([]string, error) {
	var lines []string
	for _, pattern := range []string{
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv[46]/conf/all/*", "/proc/sys/net/ipv[46]/conf/default/*",
		"/proc/sys/net/ipv[46]/conf/" + uplink + "/*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if value, err := os.ReadFile(path); err == nil { // some are not readable
				lines = append(lines, fmt.Sprintf("sysctl %s %s", path, strings.TrimSpace(string(value))))
			}
		}
	}
	return lines, nil
}

// runtimeFiles lists pins and other files that must not exist after a cleanup. The state of
// the daemon and the logs of programs stay.
func runtimeFiles() ([]string, error) {
	var lines []string
	for _, pattern := range []string{"/sys/fs/bpf/*", "/run/fairlead/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		lines = append(lines, paths...)
	}
	return lines, nil
}

// checkAttachments checks that both programs of an uplink are attached by tcx, or by filters
// otherwise.
func checkAttachments(device string, tcx bool) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, side := range []struct {
		name   string
		parent uint32
		attach ebpf.AttachType
	}{
		{"arriving", netlink.HANDLE_MIN_INGRESS, ebpf.AttachTCXIngress},
		{"leaving", netlink.HANDLE_MIN_EGRESS, ebpf.AttachTCXEgress},
	} {
		filters, err := netlink.FilterList(l, side.parent)
		if err != nil && !tcx {
			return fmt.Errorf("list filters of packets %s: %w", side.name, err)
		}
		links := 0
		if tcx {
			found, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: side.attach})
			if err != nil {
				return fmt.Errorf("list tcx programs of packets %s: %w", side.name, err)
			}
			links = len(found.Programs)
		}
		if (links == 1) != tcx || (len(filters) == 1) != !tcx {
			return fmt.Errorf("%s: packets %s meet %d tcx programs and %d filters, want tcx: %t", device, side.name, links, len(filters), tcx)
		}
	}
	return nil
}
