// SPDX-License-Identifier: Apache-2.0

// Package tables opens the pinned maps of a datapath. It replaces maps of another size or layout, and
// keeps copying to the new ones what programs of another version write to the old ones.
package tables

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	stdmaps "maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/loader/bpffs"
	"github.com/fairlead-net/fairlead/maps/transfer"
)

// Tables holds the current maps, and those that are being replaced.
type Tables struct {
	// Maps are the current maps, by name.
	Maps map[string]*ebpf.Map
	dir  string
	// old holds maps that were replaced by maps with the same entries. Programs that are
	// still attached may write to them until Commit.
	old map[string]*ebpf.Map
	// live holds maps that are not pinned, but that programs of another version write to,
	// because a replacement was interrupted.
	live map[string][]*ebpf.Map
	// made marks new maps, which no program has written to before beforeAttach runs.
	made map[string]bool
	// copiers copy from old maps, then from live ones.
	copiers map[string][]*transfer.Copier
	// fresh marks maps that are not pinned yet.
	fresh map[string]bool
}

// Open opens the pinned maps and creates those that are missing or incompatible.
// It does not change pins.
func Open(dir string, specs map[string]*ebpf.MapSpec, log *slog.Logger) (_ *Tables, retErr error) {
	t := &Tables{
		dir: dir, Maps: make(map[string]*ebpf.Map),
		old: make(map[string]*ebpf.Map), copiers: make(map[string][]*transfer.Copier), fresh: make(map[string]bool),
		live: make(map[string][]*ebpf.Map), made: make(map[string]bool),
	}
	defer func() {
		if retErr != nil {
			t.Close()
		}
	}()
	for name, spec := range specs {
		if err := t.open(name, spec, log); err != nil {
			return nil, err
		}
	}
	if err := t.findLive(specs, log); err != nil {
		return nil, err
	}
	return t, nil
}

// findLive finds the flow tables that pinned programs write to and that are not pinned themselves.
func (t *Tables) findLive(specs map[string]*ebpf.MapSpec, log *slog.Logger) error {
	programs, err := filepath.Glob(filepath.Join(filepath.Dir(t.dir), bpffs.ProgsPrefix+"*", bpf.TCProgFromEndpoint))
	if err != nil {
		return fmt.Errorf("look for programs: %w", err)
	}
	for _, path := range programs {
		used, err := mapsOf(path)
		if err != nil {
			return err
		}
		for _, m := range used {
			if err := t.addLive(m, specs, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// mapsOf opens the maps of a pinned program.
func mapsOf(path string) (_ []*ebpf.Map, retErr error) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned program: %w", err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil, fmt.Errorf("describe program %q: %w", path, err)
	}
	ids, _ := info.MapIDs()
	var all []*ebpf.Map
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			for _, m := range all {
				m.Close()
			}
			return nil, fmt.Errorf("open map %d of program %q: %w", id, path, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// addLive takes ownership of m, and keeps it if it is a flow table that is not pinned.
func (t *Tables) addLive(m *ebpf.Map, specs map[string]*ebpf.MapSpec, log *slog.Logger) error {
	info, err := m.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("describe map: %w", err), m.Close())
	}
	name := info.Name
	if spec := specs[name]; spec != nil && (name == bpf.TCMapFlCt || name == bpf.TCMapFlCtNew) && !t.has(name, m) {
		layout, err := Convertible(spec, m)
		if err == nil {
			log.Info("a replacement of tables was interrupted; copying their entries", "table", name)
			t.live[name] = append(t.live[name], m)
			_, _, err := t.copyFrom(name, m, layout)
			return err
		}
		log.Warn("cannot copy the entries of a table in use; its flows are lost", "table", name, "err", err)
	}
	return m.Close()
}

// has reports whether the map is already open under the name.
func (t *Tables) has(name string, m *ebpf.Map) bool {
	id, err := MapID(m)
	known := append([]*ebpf.Map{t.Maps[name], t.old[name]}, t.live[name]...)
	return err != nil || slices.ContainsFunc(known, func(k *ebpf.Map) bool {
		if k == nil {
			return false
		}
		other, err := MapID(k)
		return err == nil && other == id
	})
}

// Replacing reports whether there are maps to copy from.
func (t *Tables) Replacing() bool { return len(t.old)+len(t.live) > 0 }

// Replaced returns the maps that programs of another version write to, by name.
func (t *Tables) Replaced() map[string]*ebpf.Map {
	all := stdmaps.Clone(t.old)
	for name, live := range t.live {
		all[name] = live[0]
	}
	return all
}

// Overwrite makes Copy replace entries of all maps, because no program has written to them yet.
func (t *Tables) Overwrite() {
	for name := range t.live {
		t.made[name] = true
	}
}

func (t *Tables) open(name string, spec *ebpf.MapSpec, log *slog.Logger) error {
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(t.dir, name), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	if err == nil {
		if spec.Compatible(pinned) == nil {
			t.Maps[name] = pinned
			return nil
		}
		t.old[name] = pinned
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s with %d entries: %w", name, spec.MaxEntries, err)
	}
	t.Maps[name], t.fresh[name], t.made[name] = m, true, true
	if pinned == nil {
		return nil
	}
	layout, err := Convertible(spec, pinned)
	if err != nil {
		log.Warn("the layout of a table changed and cannot be converted; it starts empty", "table", name, "old", pinned.String(), "err", err)
		delete(t.old, name)
		return pinned.Close()
	}
	copied, lost, err := t.copyFrom(name, pinned, layout)
	if err != nil {
		return err
	}
	log.Info("copied a table to a new size or layout", "table", name,
		"from", pinned.MaxEntries(), "to", m.MaxEntries(), "entries", copied, "no_room", lost)
	return nil
}

// copyFrom makes the first copy of the entries of a map that the named one replaces.
func (t *Tables) copyFrom(name string, from *ebpf.Map, layout transfer.Layout) (copied, lost int, err error) {
	c, err := transfer.New(t.Maps[name], from, layout)
	if err != nil {
		return 0, 0, err
	}
	t.copiers[name] = append(t.copiers[name], c)
	copied, lost, err = c.Copy(!t.made[name])
	if err != nil {
		return copied, lost, fmt.Errorf("move entries of map %s: %w", name, err)
	}
	return copied, lost, nil
}

// Convertible returns how to convert entries of a pinned map to the wanted layout. Both
// must be hashes of the same type with keys of the same size.
func Convertible(spec *ebpf.MapSpec, m *ebpf.Map) (transfer.Layout, error) {
	if spec.Type != ebpf.Hash && spec.Type != ebpf.LRUHash {
		return transfer.Layout{}, fmt.Errorf("a %s is not converted", spec.Type)
	}
	same := spec.Copy()
	same.MaxEntries, same.ValueSize = m.MaxEntries(), m.ValueSize()
	if err := same.Compatible(m); err != nil {
		return transfer.Layout{}, err
	}
	if spec.ValueSize == m.ValueSize() {
		return transfer.SameLayout(spec), nil
	}
	return transfer.LayoutOf(spec, m)
}

// Pin pins the new maps, in place of those pinned under the same names.
func (t *Tables) Pin() error {
	for name := range t.fresh {
		if err := bpffs.Replace(t.Maps[name], filepath.Join(t.dir, name)); err != nil {
			return err
		}
		delete(t.fresh, name)
	}
	return nil
}

// Settle copies what programs of the previous version wrote to replaced maps before these
// programs were replaced, too.
func (t *Tables) Settle(log *slog.Logger) error {
	if !t.Replacing() {
		return nil
	}
	copied, lost, err := t.Copy(true)
	if err == nil {
		log.Info("copied late entries of replaced tables", "entries", copied, "no_room", lost)
	}
	return err
}

// CloseReplaced closes the replaced maps.
func (t *Tables) CloseReplaced() {
	closeAll(t.old)
	for _, all := range t.live {
		for _, m := range all {
			m.Close()
		}
	}
	clear(t.old)
	clear(t.live)
	clear(t.copiers)
}

// Copy copies the entries of replaced maps, or only those that are missing. It returns how many
// it copied, and how many did not fit; the next call tries those again.
func (t *Tables) Copy(onlyMissing bool) (copied, lost int, err error) {
	// Flows move from fl_ct_new to fl_ct, so fl_ct_new is copied first to miss none.
	names := slices.Sorted(stdmaps.Keys(t.copiers))
	for _, name := range slices.Backward(names) {
		for _, c := range t.copiers[name] {
			n, l, err := c.Copy(onlyMissing || !t.made[name])
			copied, lost = copied+n, lost+l
			if err != nil {
				return copied, lost, fmt.Errorf("move late entries of map %s: %w", name, err)
			}
		}
	}
	return copied, lost, nil
}

func (t *Tables) Close() {
	closeAll(t.Maps)
	t.CloseReplaced()
}

func closeAll(all map[string]*ebpf.Map) {
	for _, m := range all {
		m.Close()
	}
}

// MapID returns the ID that the kernel gave to a map.
func MapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel does not report map IDs")
	}
	return id, nil
}
