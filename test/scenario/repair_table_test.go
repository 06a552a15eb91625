// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/test/lab"
)

// controlTables lists the tables whose entries belong to Fairlead alone and can be removed.
func controlTables() []string {
	return []string{"fl_endpoint", "fl_fdb", "fl_neigh", "fl_service", "fl_source", "fl_egress", "fl_backend", "fl_hostaddr", "fl_subnet", "fl_uplink"}
}

// repairedTable damages a table in every way, and expects it to be restored.
func repairedTable(l *lab.Lab, table string, works func() error) {
	l.Helper()
	right := entries(l, table)
	if len(right) == 0 {
		l.Fatalf("table %s is empty", table)
	}
	isRight := func() error {
		if now := entries(l, table); !maps.Equal(now, right) {
			return fmt.Errorf("table %s has %d entries, not the %d it should have", table, len(now), len(right))
		}
		return works()
	}
	l.Case("entries of "+table+" removed", func(l *lab.Lab) {
		l.Repaired("entry", func() { l.EmptyMap(table) }, isRight)
	})
	l.Case("entries of "+table+" added and changed", func(l *lab.Lab) {
		l.Repaired("entry", func() { addForeign(l, table); changeValue(l, table) }, isRight)
	})
}

// pinned opens a pinned map, for f.
func pinned(l *lab.Lab, table string, f func(m *ebpf.Map) error) {
	l.Helper()
	path := filepath.Join(l.Dir("bpf"), "maps", table)
	err := l.Host.Do(func() error {
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return err
		}
		defer m.Close()
		return f(m)
	})
	if err != nil {
		l.Fatalf("table %s: %v", table, err)
	}
}

// entries returns a table's values by key, as bytes.
func entries(l *lab.Lab, table string) map[string]string {
	l.Helper()
	all := map[string]string{}
	pinned(l, table, func(m *ebpf.Map) error {
		clear(all)
		key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		for it := m.Iterate(); it.Next(&key, &value); {
			all[string(key)] = string(value)
		}
		return nil // an iteration that changes interrupt returns other entries than expected
	})
	return all
}

// addForeign adds an entry that Fairlead did not make: like one of the others, with another
// key.
func addForeign(l *lab.Lab, table string) {
	l.Helper()
	pinned(l, table, func(m *ebpf.Map) error {
		key, value, err := anyEntry(m)
		if err != nil {
			return err
		}
		at := 0
		if m.Type() == ebpf.LPMTrie {
			at = 4 // after the length of the prefix
		}
		key[at] ^= 0x80
		return m.Update(key, value, ebpf.UpdateNoExist)
	})
}

// changeValue changes an entry of a table.
func changeValue(l *lab.Lab, table string) {
	l.Helper()
	pinned(l, table, func(m *ebpf.Map) error {
		key, value, err := anyEntry(m)
		if err != nil {
			return err
		}
		value[0] ^= 0x80
		return m.Update(key, value, ebpf.UpdateExist)
	})
}

func anyEntry(m *ebpf.Map) (key, value []byte, err error) {
	key = make([]byte, m.KeySize())
	if err := m.NextKey(nil, &key); err != nil {
		return nil, nil, err
	}
	value, err = m.LookupBytes(key)
	return key, value, err
}

// The table of published ports has a bit per port: others can change it, but remove no entry of it.
func TestRepairsPortBits(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Config{})
	l.Sandbox("ben", "--network", network(l, "web"), "-p", "8080:7")
	right := entries(l, "fl_portbits")
	l.Repaired("entry", func() { changeValue(l, "fl_portbits") }, func() error {
		if !maps.Equal(entries(l, "fl_portbits"), right) {
			return fmt.Errorf("the bits are not restored")
		}
		return nil
	})
}
