// SPDX-License-Identifier: Apache-2.0

package loader

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
	"github.com/fairlead-net/fairlead/maps"
)

// tables holds the current maps, and those that are being replaced.
type tables struct {
	dir  string
	maps map[string]*ebpf.Map
	// old holds maps that were replaced by maps with the same entries. Programs that are
	// still attached may write to them until Commit.
	old map[string]*ebpf.Map
	// live holds maps that are not pinned, but that programs of another version write to,
	// because a replacement was interrupted.
	live map[string][]*ebpf.Map
	// made marks new maps, which no program has written to before beforeAttach runs.
	made map[string]bool
	// copiers copy from old maps, then from live ones.
	copiers map[string][]*maps.Copier
	// fresh marks maps that are not pinned yet.
	fresh map[string]bool
	// attaching is set when programs of this version may write to the maps.
	attaching bool
	// answers is set when the hooks that create masqueraded flows have programs of this version.
	answers bool
}

// openTables opens the pinned maps and creates those that are missing or incompatible.
// It does not change pins.
func openTables(dir string, specs map[string]*ebpf.MapSpec, log *slog.Logger) (_ *tables, retErr error) {
	t := &tables{
		dir: dir, maps: make(map[string]*ebpf.Map),
		old: make(map[string]*ebpf.Map), copiers: make(map[string][]*maps.Copier), fresh: make(map[string]bool),
		live: make(map[string][]*ebpf.Map), made: make(map[string]bool),
	}
	defer func() {
		if retErr != nil {
			t.close()
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
func (t *tables) findLive(specs map[string]*ebpf.MapSpec, log *slog.Logger) error {
	programs, err := filepath.Glob(filepath.Join(filepath.Dir(t.dir), progsPrefix+"*", bpf.TCProgFromEndpoint))
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
func (t *tables) addLive(m *ebpf.Map, specs map[string]*ebpf.MapSpec, log *slog.Logger) error {
	info, err := m.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("describe map: %w", err), m.Close())
	}
	name := info.Name
	if spec := specs[name]; spec != nil && (name == bpf.TCMapFlCt || name == bpf.TCMapFlCtNew) && !t.has(name, m) {
		layout, err := convertible(spec, m)
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
func (t *tables) has(name string, m *ebpf.Map) bool {
	id, err := mapID(m)
	known := append([]*ebpf.Map{t.maps[name], t.old[name]}, t.live[name]...)
	return err != nil || slices.ContainsFunc(known, func(k *ebpf.Map) bool {
		if k == nil {
			return false
		}
		other, err := mapID(k)
		return err == nil && other == id
	})
}

// replaced reports whether there are tables to copy from.
func (t *tables) replaced() bool { return len(t.old)+len(t.live) > 0 }

func (t *tables) open(name string, spec *ebpf.MapSpec, log *slog.Logger) error {
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(t.dir, name), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	if err == nil {
		if spec.Compatible(pinned) == nil {
			t.maps[name] = pinned
			return nil
		}
		t.old[name] = pinned
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s with %d entries: %w", name, spec.MaxEntries, err)
	}
	t.maps[name], t.fresh[name], t.made[name] = m, true, true
	if pinned == nil {
		return nil
	}
	layout, err := convertible(spec, pinned)
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
func (t *tables) copyFrom(name string, from *ebpf.Map, layout maps.Layout) (copied, lost int, err error) {
	c, err := maps.NewCopier(t.maps[name], from, layout)
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

// convertible returns how to convert entries of a pinned map to the wanted layout. Both
// must be hashes of the same type with keys of the same size.
func convertible(spec *ebpf.MapSpec, m *ebpf.Map) (maps.Layout, error) {
	if spec.Type != ebpf.Hash && spec.Type != ebpf.LRUHash {
		return maps.Layout{}, fmt.Errorf("a %s is not converted", spec.Type)
	}
	same := spec.Copy()
	same.MaxEntries, same.ValueSize = m.MaxEntries(), m.ValueSize()
	if err := same.Compatible(m); err != nil {
		return maps.Layout{}, err
	}
	if spec.ValueSize == m.ValueSize() {
		return maps.Layout{}, nil
	}
	return maps.LayoutOf(spec, m)
}

// pin pins the new maps, in place of those pinned under the same names.
func (t *tables) pin() error {
	for name := range t.fresh {
		if err := replacePin(t.maps[name], filepath.Join(t.dir, name)); err != nil {
			return err
		}
		delete(t.fresh, name)
	}
	return nil
}

// settle copies what programs of the previous version wrote to replaced maps before these
// programs were replaced, too.
func (t *tables) settle(log *slog.Logger) error {
	if !t.replaced() {
		return nil
	}
	copied, lost, err := t.copy(true)
	if err == nil {
		log.Info("copied late entries of replaced tables", "entries", copied, "no_room", lost)
	}
	return err
}

// closeReplaced closes the replaced maps.
func (t *tables) closeReplaced() {
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

// copy copies the entries of replaced maps, or only those that are missing. It returns how many
// it copied, and how many did not fit; the next call tries those again.
func (t *tables) copy(onlyMissing bool) (copied, lost int, err error) {
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

func (t *tables) close() {
	closeAll(t.maps)
	t.closeReplaced()
}
