// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// untrackTable is the nftables table (family inet) in an untracked sandbox's namespace.
const untrackTable = "fairlead"

// untrackHooks are the hooks before connection tracking, for packets that are received or sent by
// a device of a rule.
var untrackHooks = []struct {
	chain  string
	hook   *nftables.ChainHook
	device expr.MetaKey
}{
	{"prerouting", nftables.ChainHookPrerouting, expr.MetaKeyIIF},
	{"output", nftables.ChainHookOutput, expr.MetaKeyOIF},
}

// Untrack installs notrack rules for exactly these devices, by index, in the namespace, replacing
// any others. Without them the kernel tracks connections wherever there are NAT rules, even if
// none matches. It reports whether it changed anything.
func Untrack(ns *rtnl.NetNS, devices []uint32) (changed bool, err error) {
	devices = slices.Sorted(slices.Values(devices))
	err = ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		have, exists, err := untracked(c)
		if err != nil || slices.Equal(have, devices) {
			return err
		}
		changed = true
		return replaceUntracked(c, exists, devices)
	})
	if err != nil {
		return false, fmt.Errorf("exempt devices from connection tracking: %w", err)
	}
	return changed, nil
}

// untracked returns the exempt devices, and whether the table exists. A table that differs from
// what replaceUntracked creates exempts none.
func untracked(c *nftables.Conn) (devices []uint32, exists bool, err error) {
	table, err := c.ListTableOfFamily(untrackTable, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) || err == nil && table == nil {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for i, h := range untrackHooks {
		rules, err := c.GetRules(table, &nftables.Chain{Name: h.chain, Table: table})
		if errors.Is(err, unix.ENOENT) {
			return nil, true, nil
		}
		if err != nil {
			return nil, true, err
		}
		var these []uint32
		for _, r := range rules {
			these = append(these, exempts(r))
		}
		slices.Sort(these)
		if i > 0 && !slices.Equal(these, devices) {
			return nil, true, nil
		}
		devices = these
	}
	return devices, true, nil
}

// exempts returns the device that a rule exempts, or 0 for any other rule.
func exempts(r *nftables.Rule) uint32 {
	if len(r.Exprs) != 3 {
		return 0
	}
	cmp, ok := r.Exprs[1].(*expr.Cmp)
	if _, notrack := r.Exprs[2].(*expr.Notrack); !ok || !notrack || len(cmp.Data) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(cmp.Data)
}

// replaceUntracked replaces the table in one transaction.
func replaceUntracked(c *nftables.Conn, exists bool, devices []uint32) error {
	table := &nftables.Table{Name: untrackTable, Family: nftables.TableFamilyINet}
	if exists {
		c.DelTable(table)
	}
	if len(devices) > 0 {
		c.AddTable(table)
	}
	for _, h := range untrackHooks {
		if len(devices) == 0 {
			break
		}
		chain := c.AddChain(&nftables.Chain{
			Name: h.chain, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: h.hook, Priority: nftables.ChainPriorityRaw,
		})
		for _, d := range devices {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: h.device, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, d)},
				&expr.Notrack{},
			}})
		}
	}
	return c.Flush()
}
