// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// idleFor is how long the daemon is watched while there are no requests.
const idleFor = 10 * time.Second

// idleShare is the limit on its CPU use meanwhile, in percent of one CPU.
const idleShare = 15

// idle measures what the daemon does while there are no requests.
func (h *host) idle() {
	h.Helper()
	count := func(m map[string]float64, what string) float64 {
		return m["fairlead_reconcile_duration_seconds_"+what+`{operation="resync"}`]
	}
	h.attachedForGood()
	before, cpu := h.Metrics(), h.DaemonTime()
	time.Sleep(idleFor)
	share := 100 * (h.DaemonTime() - cpu).Seconds() / idleFor.Seconds()
	after := h.Metrics()
	n := count(after, "count") - count(before, "count")
	h.Logf("idle: %.1f %% of one CPU, %.0f resyncs in %v of %.1f ms each", share, n, idleFor,
		1000*(count(after, "sum")-count(before, "sum"))/max(1, n))
	if share > idleShare {
		h.Errorf("the idle daemon takes %.1f %% of one CPU, want at most %d %%", share, idleShare)
	}
}

// attachedForGood waits until all programs are attached by links: the kernel takes some 10 ms
// for each.
func (h *host) attachedForGood() {
	h.Helper()
	start := time.Now()
	h.Eventually(2*time.Minute, func() error {
		if filters := h.Filters(); len(filters) > 0 {
			return fmt.Errorf("%d filters are not links yet", len(filters))
		}
		return nil
	})
	h.Logf("attached for good after another %v", time.Since(start).Round(time.Millisecond))
}

// repairs breaks what takes longest to be detected on a crowded host.
func (h *host) repairs() {
	h.Helper()
	box, e := h.enter(small*(networks-1) + 999)
	defer box.Close()
	ip4 := e.IPAddress
	h.Logf("address removed inside the 1 000th sandbox of a network:")
	h.Repaired("address", func() { h.IP(box, "addr del "+ip4+"/16 dev eth0") }, func() error {
		if r := h.Run(box, "ip", "-oneline", "addr", "show", "to", ip4+"/32"); r.Code != 0 || r.Stdout == "" {
			return fmt.Errorf("%s is not back: %s", ip4, r.Stderr)
		}
		return nil
	})
	for _, table := range []string{"fl_neigh", "fl_service", "fl_backend"} {
		h.Logf("an entry of %s removed:", table)
		h.removeEntry(table)
	}
}

// removeEntry removes one entry of a table, and expects it to be restored.
func (h *host) removeEntry(table string) {
	h.Helper()
	var m *ebpf.Map
	err := h.Host.Do(func() (err error) {
		m, err = ebpf.LoadPinnedMap(filepath.Join(h.Dir("bpf"), "maps", table), nil)
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	if err := m.NextKey(nil, &key); err != nil {
		h.Fatal(err)
	}
	h.Repaired("entry", func() {
		if err := m.Delete(key); err != nil {
			h.Fatal(err)
		}
	}, func() error {
		return m.Lookup(key, &value)
	})
}
