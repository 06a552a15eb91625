// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/fairlead-net/fairlead/bpf"
)

// Devices returns the names of the host's devices whose alias has this prefix.
func (l *Lab) Devices(alias string) (names []string) {
	l.Helper()
	for line := range strings.Lines(l.Must(l.Host, "ip", "-details", "-oneline", "link", "show")) {
		fields := strings.Fields(line)
		for i, f := range fields[:len(fields)-1] {
			if f == "alias" && strings.HasPrefix(fields[i+1], alias) {
				name, _, _ := strings.Cut(fields[1], "@")
				names = append(names, strings.TrimSuffix(name, ":"))
			}
		}
	}
	return names
}

// Device returns the only device whose alias has this prefix.
func (l *Lab) Device(alias string) string {
	l.Helper()
	names := l.Devices(alias)
	if len(names) != 1 {
		l.Fatalf("devices with an alias %s…: %v, want one", alias, names)
	}
	return names[0]
}

// PinnedMap opens a map that the daemon pinned, or that one of its pinned programs uses. The test closes it.
func (l *Lab) PinnedMap(name string) (m *ebpf.Map) {
	l.Helper()
	l.must(l.Host.Do(func() (err error) {
		m, err = ebpf.LoadPinnedMap(filepath.Join(l.dir, "bpf", "maps", name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			m, err = l.mapOfPrograms(name)
		}
		return err
	}))
	return m
}

// CacheHits counts the packets that took a cached path so far: of flows, and between two members.
func (l *Lab) CacheHits() (flows, pairs uint64) {
	l.Helper()
	decisions, members := l.PinnedMap("fl_decision"), l.PinnedMap("fl_pair")
	defer decisions.Close()
	defer members.Close()
	var key uint32
	var ds []bpf.TCDecision
	entries := decisions.Iterate()
	for entries.Next(&key, &ds) {
		for _, d := range ds {
			flows += uint64(d.Hits)
		}
	}
	l.must(entries.Err())
	var ps []bpf.TCPair
	entries = members.Iterate()
	for entries.Next(&key, &ps) {
		for _, p := range ps {
			pairs += uint64(p.Hits)
		}
	}
	l.must(entries.Err())
	return flows, pairs
}

func (l *Lab) mapOfPrograms(name string) (*ebpf.Map, error) {
	pins, err := filepath.Glob(filepath.Join(l.dir, "bpf", "progs-*", "*"))
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		m, err := mapOfProgram(pin, name)
		if m != nil || err != nil {
			return m, err
		}
	}
	return nil, fmt.Errorf("none of %d pinned programs uses a map %s", len(pins), name)
}

// mapOfProgram returns nil if the pinned program does not use a map of that name.
func mapOfProgram(pin, name string) (*ebpf.Map, error) {
	p, err := ebpf.LoadPinnedProgram(pin, nil)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		if got, err := m.Info(); err == nil && got.Name == name {
			return m, nil
		}
		m.Close()
	}
	return nil, nil
}

// EmptyMap removes every entry of a pinned map, as bpftool could.
func (l *Lab) EmptyMap(name string) {
	l.Helper()
	m := l.PinnedMap(name)
	defer m.Close()
	l.must(Empty(m))
}

// Empty removes every entry of a map.
func Empty(m *ebpf.Map) error {
	key := make([]byte, m.KeySize())
	for {
		err := m.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.Delete(key); err != nil {
			return err
		}
	}
}

// DetachLinks detaches the pinned links that match pattern, and returns their number.
func (l *Lab) DetachLinks(pattern string) (n int) {
	l.Helper()
	l.must(l.Host.Do(func() error {
		pins, err := filepath.Glob(filepath.Join(l.dir, "bpf", "links", pattern))
		if err != nil {
			return err
		}
		for _, pin := range pins {
			attached, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				return err
			}
			err = errors.Join(attached.Detach(), attached.Close())
			if err != nil {
				return fmt.Errorf("detach %s: %w", pin, err)
			}
			n++
		}
		return nil
	}))
	return n
}

// Namespaces returns the paths of the namespaces that Fairlead made and has not removed, as
// the host sees them.
func (l *Lab) Namespaces() (paths []string) {
	l.Helper()
	l.must(l.Host.Do(func() error {
		entries, err := os.ReadDir(filepath.Join(l.dir, "run", "netns"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, e := range entries {
			paths = append(paths, filepath.Join(l.dir, "run", "netns", e.Name()))
		}
		return err
	}))
	return paths
}

// Repairs returns how many things the daemon has repaired, by kind.
func (m Metrics) Repairs() map[string]float64 {
	return m.labelled("fairlead_reconcile_repairs_total", "kind")
}

// repairedWithin is how long a repair may take.
const repairedWithin = 5 * time.Second

// Repaired expects that what spoil breaks works again in time, and is counted under one of
// the kinds.
func (l *Lab) Repaired(kinds string, spoil func(), works func() error) {
	l.Helper()
	before := l.Metrics().Repairs()
	began := time.Now()
	spoil()
	l.Eventually(time.Until(began.Add(repairedWithin)), func() error {
		now := l.Metrics().Repairs()
		counted := false
		for kind := range strings.FieldsSeq(kinds) {
			counted = counted || now[kind] > before[kind]
		}
		if !counted {
			return fmt.Errorf("no repair of kind %s was counted (all: %v, before: %v)", kinds, now, before)
		}
		return works()
	})
	l.Logf("repaired within %v", time.Since(began).Round(10*time.Millisecond))
}
