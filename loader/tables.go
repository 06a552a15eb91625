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

	"github.com/fairlead-net/fairlead/maps"
)

// tables is the kernel's maps, and those that are about to be replaced.
type tables struct {
	dir  string
	maps map[string]*ebpf.Map
	// old is maps that were replaced by others of the same entries: programs
	// that are still attached may go on writing to them until Commit.
	old map[string]*ebpf.Map
	// layouts says how entries of old maps become entries of the new ones.
	layouts map[string]maps.Layout
	// fresh is the maps that are not pinned yet.
	fresh map[string]bool
	// attaching: programs of this version may write to the maps.
	attaching bool
	// answers: the hooks that begin masqueraded flows have programs of this version.
	answers bool
}

// openTables opens the pinned maps and makes those that are missing or do not
// fit. Pins stay as they are.
func openTables(dir string, specs map[string]*ebpf.MapSpec, log *slog.Logger) (_ *tables, retErr error) {
	t := &tables{
		dir: dir, maps: make(map[string]*ebpf.Map),
		old: make(map[string]*ebpf.Map), layouts: make(map[string]maps.Layout), fresh: make(map[string]bool),
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
	return t, nil
}

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
	t.maps[name], t.fresh[name] = m, true
	if pinned == nil {
		return nil
	}
	if t.layouts[name], err = convertible(spec, pinned); err != nil {
		log.Warn("table has another layout now and starts empty", "table", name, "old", pinned.String(), "err", err)
		delete(t.old, name)
		return pinned.Close()
	}
	copied, lost, err := maps.Copy(m, pinned, t.layouts[name], false)
	if err != nil {
		return fmt.Errorf("move entries of map %s: %w", name, err)
	}
	log.Info("table has another size or layout now and was copied", "table", name,
		"from", pinned.MaxEntries(), "to", m.MaxEntries(), "entries", copied, "no_room", lost)
	return nil
}

// convertible returns how entries of a pinned map become entries of the one
// wanted: both are hashes of one kind with keys of one size.
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

// pin pins the maps that are new, in place of what was pinned by their names.
func (t *tables) pin() error {
	for name := range t.fresh {
		if err := replacePin(t.maps[name], filepath.Join(t.dir, name)); err != nil {
			return err
		}
		delete(t.fresh, name)
	}
	return nil
}

// settle copies what programs of the version before wrote to replaced maps until they were replaced, too.
func (t *tables) settle(log *slog.Logger) error {
	for name := range t.old {
		log.Info("late entries of a replaced table are copied", "table", name)
	}
	return t.copy(true)
}

// forget lets go of replaced maps.
func (t *tables) forget() {
	closeAll(t.old)
	clear(t.old)
}

// copy copies the entries of replaced maps, or those that are missing.
func (t *tables) copy(onlyMissing bool) error {
	// A flow moves from fl_ct_new to fl_ct: in this order none is overlooked.
	names := slices.Sorted(stdmaps.Keys(t.old))
	for _, name := range slices.Backward(names) {
		if _, _, err := maps.Copy(t.maps[name], t.old[name], t.layouts[name], onlyMissing); err != nil {
			return fmt.Errorf("move late entries of map %s: %w", name, err)
		}
	}
	return nil
}

func (t *tables) close() {
	closeAll(t.maps)
	closeAll(t.old)
}
