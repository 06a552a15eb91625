// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bpf"
)

// newTCX retries this often, at this interval, while a dying link holds the program's place.
const (
	dyingLinkTries = 25
	dyingLinkWait  = 10 * time.Millisecond
)

// attachTCX adopts, updates or creates the pinned link of a hook on a device.
func (d *Datapath) attachTCX(ifindex int, h Hook) (changed bool, err error) {
	prog := d.progs[h.String()]
	pin := filepath.Join(d.dir, linksDir, h.pinName(ifindex))
	live := func(info *link.Info) (bool, error) { return isAttached(info, ifindex, h) }
	done, changed, err := updateLink(pin, prog, live)
	if done || err != nil {
		return changed, err
	}
	if found, err := d.adoptOrphan(pin, ifindex, h); err != nil {
		return false, err
	} else if found {
		if done, _, err := updateLink(pin, prog, live); done || err != nil {
			return true, err
		}
	}
	l, err := newTCX(ifindex, h, prog)
	if err != nil {
		return false, err
	}
	// Close detaches the link if it is not pinned.
	defer l.Close()
	return true, replacePin(l, pin)
}

// newTCX attaches at the head, so that a program that ends the chain cannot bypass
// ours. A link whose last pin was removed holds the program's place until the kernel
// has released it.
func newTCX(ifindex int, h Hook, prog *ebpf.Program) (l link.Link, err error) {
	for range dyingLinkTries {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: ifindex, Program: prog, Attach: h.tcx(), Anchor: link.Head(),
		})
		if !errors.Is(err, unix.EEXIST) {
			return l, err
		}
		time.Sleep(dyingLinkWait)
	}
	return nil, err
}

// updateLink makes prog the program of the pinned link. done is false if the link does
// not exist, or if live reports that it is not attached where it should be.
func updateLink(pin string, prog *ebpf.Program, live func(*link.Info) (bool, error)) (done, changed bool, err error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, false, err
	}
	if ok, err := live(info); !ok || err != nil {
		return false, false, err
	}
	id, err := progID(prog)
	if err != nil {
		return false, false, err
	}
	if info.Program == id {
		return true, false, nil
	}
	err = l.Update(prog)
	if errors.Is(err, unix.ENOLINK) {
		return false, false, nil // the device was removed in the meantime
	}
	return err == nil, err == nil, err
}

// isAttached queries the device for the link, because a device in another network
// namespace can have the same ifindex.
func isAttached(info *link.Info, ifindex int, h Hook) (bool, error) {
	tcx := info.TCX()
	if tcx == nil || int(tcx.Ifindex) != ifindex || ebpf.AttachType(tcx.AttachType) != h.tcx() {
		return false, nil
	}
	res, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: h.tcx()})
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(res.Programs, func(p link.AttachedProgram) bool {
		id, ok := p.LinkID()
		return ok && id == info.ID
	}), nil
}

// adoptOrphan looks for links of the hook's program on the device that are not pinned in
// our directory. A bpffs that was lost but is still mounted somewhere leaves them, and two
// links would handle every packet twice. It pins one of them and detaches the others.
func (d *Datapath) adoptOrphan(pin string, ifindex int, h Hook) (found bool, err error) {
	res, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: h.tcx()})
	if err != nil {
		return false, err
	}
	for _, p := range res.Programs {
		id, ok := p.LinkID()
		if !ok || !isOurs(p.ID, h) {
			continue
		}
		l, err := link.NewFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("open orphaned link %d: %w", id, err)
		}
		if found {
			err = l.Detach()
		} else {
			err = replacePin(l, pin)
		}
		l.Close()
		if err != nil {
			return found, fmt.Errorf("adopt orphaned link %d: %w", id, err)
		}
		found = true
		d.log.Warn("adopted or detached an orphaned link of an earlier run", "hook", h.String(), "ifindex", ifindex, "link", id)
	}
	return found, nil
}

// isOurs reports whether the program has the hook's name and uses tables of this datapath.
func isOurs(id ebpf.ProgramID, h Hook) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name != h.String() {
		return false
	}
	ids, _ := info.MapIDs()
	return slices.ContainsFunc(ids, func(id ebpf.MapID) bool {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false
		}
		defer m.Close()
		info, err := m.Info()
		return err == nil && (info.Name == bpf.TCMapFlEndpoint || info.Name == bpf.TCMapFlUplink || info.Name == bpf.TCMapFlCt)
	})
}

// detachLink detaches a pinned link and removes the pin. It succeeds if the link does not exist.
func detachLink(pin string) (changed bool, err error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	// Removing the pin also detaches the link, but a moment later. A link whose device
	// was removed cannot be detached, and need not be.
	_ = l.Detach()
	return true, removePin(pin)
}
