// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/fairlead-net/fairlead/bpf"
)

// Hook is the attachment point of a program on a device.
type Hook int

// The hooks of the datapath.
const (
	// FromEndpoint handles packets that an endpoint sent. It is attached to the host end of
	// the endpoint, or to the datapath's end of a host port.
	FromEndpoint Hook = iota
	// FromUplink handles packets that arrive at an uplink.
	FromUplink
	// ToUplink handles packets that leave through an uplink.
	ToUplink
)

// String returns the name of the hook's program.
func (h Hook) String() string {
	switch h {
	case FromEndpoint:
		return bpf.TCProgFromEndpoint
	case FromUplink:
		return bpf.TCProgFromUplink
	case ToUplink:
		return bpf.TCProgToUplink
	}
	return fmt.Sprintf("hook%d", int(h))
}

func (h Hook) egress() bool { return h == ToUplink }

func (h Hook) tcx() ebpf.AttachType {
	if h.egress() {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// filter returns the name of the hook's clsact filter.
func (h Hook) filter() string { return "fl_" + h.String() }

// pinName returns the name of the hook's pin for a device, in links/ and filters/.
func (h Hook) pinName(ifindex int) string { return fmt.Sprintf("%s-%d", h, ifindex) }

// parsePinName is the inverse of pinName.
func parsePinName(name string) (ifindex int, h Hook, ok bool) {
	hook, number, _ := strings.Cut(name, "-")
	ifindex, err := strconv.Atoi(number)
	if err != nil || ifindex <= 0 {
		return 0, 0, false
	}
	for _, h := range []Hook{FromEndpoint, FromUplink, ToUplink} {
		if h.String() == hook && h.pinName(ifindex) == name {
			return ifindex, h, true
		}
	}
	return 0, 0, false
}

// Attachment is a program attached to a device, according to the pins.
type Attachment struct {
	IfIndex   int
	Hook      Hook
	ProgramID uint32 // of a link
	TCX       bool   // a tcx link, not a clsact filter
	Live      bool   // false: the device was removed, or the link was detached
}

// Attach ensures that the current version of the hook's program is attached to a
// device. An attachment of this version is adopted; another version is replaced in
// place, so that no packet bypasses the datapath. It reports whether it changed anything.
func (d *Datapath) Attach(ifindex int, h Hook) (changed bool, err error) {
	if err := d.beforeAttach(h); err != nil {
		return false, err
	}
	if d.tcx {
		changed, err = d.attachTCX(ifindex, h)
	} else {
		changed, err = d.attachClsact(ifindex, h)
	}
	if err != nil {
		return false, fmt.Errorf("attach %s to device %d: %w", h, ifindex, err)
	}
	// Detach the other kind only now, so that the device always has a program.
	other, err := d.detach(ifindex, h, !d.tcx)
	return changed || other, err
}

// AttachFast attaches the hook's program to a device without the delay of a tcx link:
// the kernel waits for an RCU grace period, some 10 ms, with rtnl held (tcx_entry_sync),
// which blocks all network configuration. AttachFast uses a clsact filter, which costs
// each packet a little more. changed reports whether it changed anything, provisional
// that Attach must be called later to replace the filter with a link. If the device
// already has a link, or a filter cannot be attached, AttachFast is the same as Attach.
func (d *Datapath) AttachFast(ifindex int, h Hook) (changed, provisional bool, err error) {
	if err := d.beforeAttach(h); err != nil {
		return false, false, err
	}
	if d.tcx && d.clsact != nil {
		_, err := os.Lstat(filepath.Join(d.dir, linksDir, h.pinName(ifindex)))
		if errors.Is(err, os.ErrNotExist) {
			changed, err = d.attachClsact(ifindex, h)
			if err == nil {
				return changed, true, nil
			}
			d.log.Debug("cannot attach a clsact filter; attaching a tcx link", "hook", h.String(), "ifindex", ifindex, "err", err)
		}
	}
	changed, err = d.Attach(ifindex, h)
	return changed, false, err
}

// Detach ensures that the hook's program is not attached to a device. It succeeds
// if the attachment or the device does not exist.
func (d *Datapath) Detach(ifindex int, h Hook) error {
	_, errTCX := d.detach(ifindex, h, true)
	_, errClsact := d.detach(ifindex, h, false)
	return errors.Join(errTCX, errClsact)
}

func (d *Datapath) detach(ifindex int, h Hook, tcx bool) (changed bool, err error) {
	if tcx {
		changed, err = detachLink(filepath.Join(d.dir, linksDir, h.pinName(ifindex)))
	} else {
		changed, err = detachFilter(d.dir, ifindex, h, d.clsact)
	}
	if err != nil {
		return false, fmt.Errorf("detach %s from device %d: %w", h, ifindex, err)
	}
	return changed, nil
}

// Attached lists the attachments, including those left over from removed devices.
func (d *Datapath) Attached() ([]Attachment, error) {
	links, err := attachments(d.dir, linksDir)
	if err != nil {
		return nil, err
	}
	filters, err := attachments(d.dir, filtersDir)
	if err != nil {
		return nil, err
	}
	all := make([]Attachment, 0, len(links)+len(filters))
	for _, a := range links {
		err := a.readLink(d.dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached in the meantime
		}
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	for _, a := range filters {
		a.Live = true // the pin says no more than that the filter exists
		all = append(all, a)
	}
	return all, nil
}

// attachments lists the pins of one directory without opening them.
func attachments(dir, sub string) ([]Attachment, error) {
	entries, err := os.ReadDir(filepath.Join(dir, sub))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	var all []Attachment
	for _, e := range entries {
		if ifindex, h, ok := parsePinName(e.Name()); ok {
			all = append(all, Attachment{IfIndex: ifindex, Hook: h, TCX: sub == linksDir})
		}
	}
	return all, nil
}

func (a *Attachment) readLink(dir string) error {
	l, err := link.LoadPinnedLink(filepath.Join(dir, linksDir, a.Hook.pinName(a.IfIndex)), nil)
	if err != nil {
		return fmt.Errorf("open link of %s at device %d: %w", a.Hook, a.IfIndex, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("describe link of %s at device %d: %w", a.Hook, a.IfIndex, err)
	}
	a.ProgramID = uint32(info.Program)
	if tcx := info.TCX(); tcx != nil {
		a.Live = int(tcx.Ifindex) == a.IfIndex
	}
	return nil
}
