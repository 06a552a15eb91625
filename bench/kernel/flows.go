// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps"
)

// Idle flows differ in their client's address, 198.18.0.0 and up.
var (
	firstClient = binary.BigEndian.Uint32([]byte{198, 18, 0, 0})
	server      = mapped(binary.BigEndian.Uint32([]byte{203, 0, 113, 1}))
)

// flowLifetime is how long idle flows are kept, in seconds: longer than a case lasts.
const flowLifetime = 24 * 60 * 60

// FillFlows writes entries of established TCP connections, two per connection, to the
// conntrack table in a daemon's directory. No packet belongs to them.
func FillFlows(dir string, entries int) (retErr error) {
	table, err := ebpf.LoadPinnedMap(filepath.Join(dir, "maps", bpf.TCMapFlCt), nil)
	if err != nil {
		return fmt.Errorf("fill conntrack: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, table.Close()) }()
	return fill(table, entries)
}

func fill(table *ebpf.Map, entries int) error {
	expires := maps.Now() + flowLifetime
	const batch = 10_000 // entries
	for written := 0; written < entries; written += batch {
		var keys []bpf.TCTuple
		var values []bpf.TCCtEntry
		for i := written / 2; i < min(written+batch, entries)/2; i++ {
			there, back := directions(uint32(i))
			e := bpf.TCCtEntry{Xlat: there, Expires: expires, State: uint8(bpf.TCCtStateCT_ESTABLISHED)}
			r := e
			r.Xlat, r.Flags = back, uint16(bpf.TCCtFlagCT_F_REPLY)
			keys, values = append(keys, there, back), append(values, e, r)
		}
		if _, err := table.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("fill conntrack: %w", err)
		}
	}
	return nil
}

// directions returns both directions of the i-th flow.
func directions(i uint32) (there, back bpf.TCTuple) {
	const tcp = 6
	there = bpf.TCTuple{Saddr: mapped(firstClient + i), Daddr: server, Sport: 1024, Dport: 80, Proto: tcp}
	back = there
	back.Saddr, back.Daddr, back.Sport, back.Dport = there.Daddr, there.Saddr, there.Dport, there.Sport
	return there, back
}

// mapped returns an IPv4 address in the form that the tables use.
func mapped(v4 uint32) (ip bpf.TCIp) {
	ip.B[10], ip.B[11] = 0xff, 0xff
	binary.BigEndian.PutUint32(ip.B[12:], v4)
	return ip
}
