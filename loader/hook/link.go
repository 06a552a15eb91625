// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/maps"
)

// links is a kind of attachment that is a BPF link. All such kinds are pinned, adopted and replaced
// in the same way.
type links struct {
	linkType
	name Kind
	dir  string
	log  *slog.Logger
}

// linkType is what differs between kinds of links.
type linkType interface {
	problem() string
	// pinName returns the name of the pin of a link, and parsePin is its inverse.
	pinName(at point) string
	parsePin(name string) (at point, ok bool)
	create(at point, prog *ebpf.Program) (link.Link, error)
	// isAt reports whether the link has the point. This can be another point with the same
	// number in another network namespace.
	isAt(at point, info *link.Info) bool
	// isAttached reports whether the link is attached to the point in this network namespace.
	isAttached(at point, info *link.Info) (bool, error)
	// query lists the links at the point, those of other programs too.
	query(at point) ([]placed, error)
}

// placed is a link and its program.
type placed struct {
	link link.ID
	prog ebpf.ProgramID
}

func (l *links) pin(at point) string { return filepath.Join(l.dir, l.pinName(at)) }

// attach adopts, updates or creates the pinned link of a point.
func (l *links) attach(at point, prog *ebpf.Program) (changed bool, err error) {
	done, changed, err := l.update(at, prog)
	if done || err != nil {
		return changed, err
	}
	if found, err := l.adoptOrphan(at); err != nil {
		return false, err
	} else if found {
		if done, _, err := l.update(at, prog); done || err != nil {
			return true, err
		}
	}
	made, err := l.create(at, prog)
	if err != nil {
		return false, err
	}
	// Close detaches the link if it is not pinned.
	defer made.Close()
	return true, bpffs.Replace(made, l.pin(at))
}

// update makes prog the program of the pinned link. done is false if the link does
// not exist, or if it is not attached where it should be.
func (l *links) update(at point, prog *ebpf.Program) (done, changed bool, err error) {
	pinned, err := link.LoadPinnedLink(l.pin(at), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return false, false, err
	}
	if ok, err := l.isAttached(at, info); !ok || err != nil {
		return false, false, err
	}
	id, err := progID(prog)
	if err != nil {
		return false, false, err
	}
	if info.Program == id {
		return true, false, nil
	}
	err = pinned.Update(prog)
	if errors.Is(err, unix.ENOLINK) {
		return false, false, nil // the device was removed in the meantime
	}
	return err == nil, err == nil, err
}

// adoptOrphan looks for links of the hook's program at the point that are not pinned in
// our directory. A bpffs that was lost but is still mounted somewhere leaves them, and so does a daemon of
// another directory; two links would handle every packet, and every call of a socket, twice. It pins one of them and detaches the others.
func (l *links) adoptOrphan(at point) (found bool, err error) {
	all, err := l.query(at)
	if err != nil {
		return false, err
	}
	for _, p := range all {
		if !isOurs(p.prog, at.hook) {
			continue
		}
		orphan, err := link.NewFromID(p.link)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("open orphaned link %d: %w", p.link, err)
		}
		if found {
			err = orphan.Detach()
		} else {
			err = bpffs.Replace(orphan, l.pin(at))
		}
		orphan.Close()
		if err != nil {
			return found, fmt.Errorf("adopt orphaned link %d: %w", p.link, err)
		}
		found = true
		l.log.Warn("adopted or detached an orphaned link of an earlier run", "hook", string(at.hook), "ifindex", at.ifindex, "link", p.link)
	}
	return found, nil
}

// isOurs reports whether the program has the hook's name and uses a table of a datapath.
func isOurs(id ebpf.ProgramID, h Hook) bool {
	return uses(id, h, func(m *ebpf.Map) bool {
		info, err := m.Info()
		return err == nil && slices.Contains(maps.Names(), info.Name)
	})
}

// uses reports whether the program has the hook's name and uses such a map. A program that was detached in the meantime
// does not.
func uses(id ebpf.ProgramID, h Hook, such func(*ebpf.Map) bool) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name != string(h) {
		return false
	}
	ids, _ := info.MapIDs()
	return slices.ContainsFunc(ids, func(id ebpf.MapID) bool {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false
		}
		defer m.Close()
		return such(m)
	})
}

// detach detaches a pinned link and removes the pin.
func (l *links) detach(at point) (changed bool, err error) {
	pinned, err := link.LoadPinnedLink(l.pin(at), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer pinned.Close()
	// Removing the pin also detaches the link, but a moment later. A link whose device
	// was removed cannot be detached, and need not be.
	_ = pinned.Detach()
	return true, bpffs.Remove(l.pin(at))
}

func (l *links) list() ([]Attachment, error) {
	pins, err := pinned(l.dir, l.parsePin)
	if err != nil {
		return nil, err
	}
	all := make([]Attachment, 0, len(pins))
	for _, at := range pins {
		a, err := l.read(at)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached in the meantime
		}
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func (l *links) read(at point) (Attachment, error) {
	pinned, err := link.LoadPinnedLink(l.pin(at), nil)
	if err != nil {
		return Attachment{}, fmt.Errorf("open link of %s at device %d: %w", at.hook, at.ifindex, err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return Attachment{}, fmt.Errorf("describe link of %s at device %d: %w", at.hook, at.ifindex, err)
	}
	return Attachment{
		IfIndex: at.ifindex, Hook: at.hook, Kind: l.name, ProgramID: uint32(info.Program), Live: l.isAt(at, info),
	}, nil
}

// pinned lists the points of the pins in a directory.
func pinned(dir string, parse func(name string) (point, bool)) ([]point, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list attachments: %w", err)
	}
	var all []point
	for _, e := range entries {
		if at, ok := parse(e.Name()); ok {
			all = append(all, at)
		}
	}
	return all, nil
}

func progID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel does not report program IDs")
	}
	return id, nil
}
