// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/fairlead-net/fairlead/bpf"
)

// Counter counts packets and their bytes, or events as packets.
type Counter struct {
	Packets, Bytes uint64
}

// Counters reads the datapath's counters. The labels are the names of the C enums, read from the
// object's BTF, so that the C code is their only source.
type Counters struct {
	drops, paths, events, traffic *ebpf.Map

	dropLabels, pathLabels, eventLabels []string // by index; "" is not shown
}

func newCounters(m map[string]*ebpf.Map, types *btf.Spec) (*Counters, error) {
	c := &Counters{
		drops: m[bpf.TCMapFlDrops], paths: m[bpf.TCMapFlPaths],
		events: m[bpf.TCMapFlEvents], traffic: m[bpf.TCMapFlTraffic],
	}
	for _, e := range []struct {
		enum, prefix string
		labels       *[]string
	}{
		{"drop_reason", "DROP_", &c.dropLabels},
		{"fwd_path", "PATH_", &c.pathLabels},
		{"ct_event", "EV_", &c.eventLabels},
	} {
		var err error
		if *e.labels, err = enumLabels(types, e.enum, e.prefix); err != nil {
			return nil, err
		}
	}
	// DROP_NONE means that nothing was dropped; it is never counted.
	if len(c.dropLabels) > 0 {
		c.dropLabels[bpf.TCDropReasonDROP_NONE] = ""
	}
	return c, nil
}

// Drops returns refused packets by reason.
func (c *Counters) Drops() (map[string]Counter, error) { return readCounters(c.drops, c.dropLabels) }

// Paths returns forwarded packets by path.
func (c *Counters) Paths() (map[string]Counter, error) { return readCounters(c.paths, c.pathLabels) }

// Events returns the count of each event, in Packets.
func (c *Counters) Events() (map[string]Counter, error) { return readCounters(c.events, c.eventLabels) }

// UplinkTraffic is the network index under which Traffic counts packets at uplinks: arriving ones
// as sent by endpoints, leaving ones as sent to them.
const UplinkTraffic = 0

// Traffic returns what the endpoints of a network sent and received.
func (c *Counters) Traffic(net uint32) (from, to Counter, err error) {
	base := net * uint32(bpf.TCDirectionDIR_MAX)
	if from, err = readCounter(c.traffic, base+uint32(bpf.TCDirectionDIR_FROM_ENDPOINT)); err != nil {
		return Counter{}, Counter{}, fmt.Errorf("read traffic of network %d: %w", net, err)
	}
	if to, err = readCounter(c.traffic, base+uint32(bpf.TCDirectionDIR_TO_ENDPOINT)); err != nil {
		return Counter{}, Counter{}, fmt.Errorf("read traffic of network %d: %w", net, err)
	}
	return from, to, nil
}

// ResetTraffic sets a network's counters to zero, before its index is assigned to another network.
func (c *Counters) ResetTraffic(net uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("reset traffic of network %d: %w", net, err)
	}
	zero := make([]bpf.TCCounter, cpus)
	base := net * uint32(bpf.TCDirectionDIR_MAX)
	for i := range uint32(bpf.TCDirectionDIR_MAX) {
		if err := c.traffic.Put(base+i, zero); err != nil {
			return fmt.Errorf("reset traffic of network %d: %w", net, err)
		}
	}
	return nil
}

func readCounters(m *ebpf.Map, labels []string) (map[string]Counter, error) {
	out := make(map[string]Counter, len(labels))
	for i, label := range labels {
		if label == "" {
			continue
		}
		n, err := readCounter(m, uint32(i))
		if err != nil {
			return nil, fmt.Errorf("read counter %q: %w", label, err)
		}
		out[label] = n
	}
	return out, nil
}

// readCounter returns the sum over all CPUs.
func readCounter(m *ebpf.Map, i uint32) (Counter, error) {
	var perCPU []bpf.TCCounter
	if err := m.Lookup(i, &perCPU); err != nil {
		return Counter{}, err
	}
	var sum Counter
	for _, n := range perCPU {
		sum.Packets += n.Packets
		sum.Bytes += n.Bytes
	}
	return sum, nil
}

// enumLabels returns the names of an enum's values by value: without prefix,
// in lower case, without the closing _MAX.
func enumLabels(types *btf.Spec, name, prefix string) ([]string, error) {
	var enum *btf.Enum
	if err := types.TypeByName(name, &enum); err != nil {
		return nil, fmt.Errorf("look up enum %s in the object's BTF: %w", name, err)
	}
	var labels []string
	for _, v := range enum.Values {
		if strings.HasSuffix(v.Name, "_MAX") || !strings.HasPrefix(v.Name, prefix) || v.Value > 1<<16 {
			continue
		}
		for uint64(len(labels)) <= v.Value {
			labels = append(labels, "")
		}
		labels[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, prefix))
	}
	return labels, nil
}
