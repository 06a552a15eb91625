// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
)

// State is the host's devices and addresses.
type State struct {
	Links []rtnl.Link
	Addrs []rtnl.Addr
	Local []netip.Prefix // local routes that do not come from an address

	loaded  bool
	byName  map[string]rtnl.Link
	byAlias map[string]rtnl.Link // Fairlead's
}

// Read reads all devices and addresses of the host.
func Read(nl *rtnl.Handle) (s State, err error) {
	if s.Links, err = nl.Links(); err != nil {
		return s, err
	}
	if s.Addrs, err = nl.Addrs(); err != nil {
		return s, err
	}
	if s.Local, err = nl.LocalPrefixes(s.Addrs); err != nil {
		return s, err
	}
	s.loaded = true
	s.byName, s.byAlias = make(map[string]rtnl.Link), make(map[string]rtnl.Link)
	for _, l := range s.Links {
		s.byName[l.Name] = l
		if strings.HasPrefix(l.Alias, rtnl.AliasPrefix) {
			s.byAlias[l.Alias] = l
		}
	}
	return s, nil
}

// Host is the host as one pass sees it: a State that was read at its beginning, or, with the
// zero State, the kernel, which is queried for single devices.
type Host struct {
	State
	nl      *rtnl.Handle
	shapers tc.Shapers // nil if not read
}

// NewHost returns a Host.
func NewHost(nl *rtnl.Handle, s State) *Host { return &Host{State: s, nl: nl} }

// find looks up one of Fairlead's devices by its alias, which survives renaming, or by the name
// of an unfinished one. It returns false if there is none, and an error if the name belongs to
// another device.
func (h *Host) find(alias, name string, index uint32) (rtnl.Link, bool, error) {
	var l rtnl.Link
	var err error
	ok := false
	switch {
	case h.loaded:
		if l, ok = h.byAlias[alias]; !ok {
			l, ok = h.byName[name]
		}
	case index != 0:
		l, err = h.nl.Link(index)
		ok = err == nil
	default:
		l, err = h.nl.LinkByName(name)
		ok = err == nil
	}
	if errors.Is(err, rtnl.ErrNoDevice) {
		err = nil
	}
	if ok && !l.Ours() {
		return rtnl.Link{}, false, fmt.Errorf("device %q already exists and is not Fairlead's (remove or rename it)", name)
	}
	return l, ok, err
}

// deleteLinks deletes devices that were found; index 0 means not found.
func (h *Host) deleteLinks(links ...rtnl.Link) error {
	for _, l := range links {
		if l.Index == 0 {
			continue
		}
		if err := h.nl.DeleteLink(l.Index); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a device and, with it, its peer.
func (h *Host) remove(alias, name string, index uint32) error {
	l, ok, err := h.find(alias, name, index)
	if err != nil || !ok {
		return nil // if another device has the name, ours does not exist
	}
	return h.nl.DeleteLink(l.Index)
}

// Sweep deletes Fairlead's devices that have none of the wanted aliases and names. The one that encrypts has
// another owner.
func (h *Host) Sweep(wanted map[string]bool, log *slog.Logger) error {
	var stale []uint32
	for _, l := range h.Links {
		// An unfinished device that is wanted is handled where devices are created.
		if l.Ours() && l.Name != rtnl.WireGuardDevice && !wanted[l.Alias] && (l.Alias != "" || !wanted[l.Name]) {
			log.Info("removed leftover device", "device", l.Name, "alias", l.Alias)
			stale = append(stale, l.Index)
		}
	}
	return h.nl.DeleteLinks(stale)
}
