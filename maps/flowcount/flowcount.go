// SPDX-License-Identifier: Apache-2.0

// Package flowcount corrects fl_ct_used: the programs' count of the entries of fl_ct.
package flowcount

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/maps/transfer"
)

// Count is the programs' count of the entries of fl_ct, which they use to refuse new flows.
type Count struct {
	Flows *ebpf.Map // fl_ct
	Used  *ebpf.Map // fl_ct_used
}

// countSlack is the tolerated error of the programs' count, in entries: it changes while the table
// is read.
const countSlack = 64

// held is larger than any table.
const held = int64(1) << 40

// Recount corrects the count, which is wrong after entries were written from user space.
func (c Count) Recount() error {
	before, err := c.get()
	if err != nil {
		return err
	}
	entries, err := transfer.Count(c.Flows)
	if err != nil {
		return fmt.Errorf("table %s: %w", bpf.TCMapFlCt, err)
	}
	after, err := c.get()
	if err != nil {
		return err
	}
	low, high := min(before, after)-countSlack, max(before, after)+countSlack
	if int64(entries) >= low && int64(entries) <= high {
		return nil
	}
	return c.put(int64(entries))
}

// Hold makes the programs refuse new TCP connections as if fl_ct were full, until Recount. Senders
// repeat their SYN after a second. So no connection can begin and be left out of the copy while
// tables and programs are exchanged.
func (c Count) Hold() error { return c.put(held) }

func (c Count) get() (int64, error) {
	var n int64
	if err := c.Used.Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("read table %s: %w", bpf.TCMapFlCtUsed, err)
	}
	return n, nil
}

func (c Count) put(n int64) error {
	if err := c.Used.Put(uint32(0), n); err != nil {
		return fmt.Errorf("write to table %s: %w", bpf.TCMapFlCtUsed, err)
	}
	return nil
}
