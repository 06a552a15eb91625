// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

// uses is what a change depends on. Changes that use different things may be applied at the same time:
// whichever of them fails can be reverted as if it had never been made.
type uses struct {
	// keys are keys of the store, and what is unique, such as names, addresses and host ports. A key is
	// mapped to true if the change sets or releases it, and to false if the change only needs it to stay as
	// it is.
	keys     map[string]bool
	prefixes []netip.Prefix // that the change claims or releases
}

// meets reports whether one of two changes sets something that the other one uses.
func (u *uses) meets(o *uses) bool {
	for key, sets := range u.keys {
		if other, ok := o.keys[key]; ok && (sets || other) {
			return true
		}
	}
	return slices.ContainsFunc(u.prefixes, func(p netip.Prefix) bool { return slices.ContainsFunc(o.prefixes, p.Overlaps) })
}

// Things that a change can need to stay as they are; see [Tx.Needs].
const (
	Network       = schema.PrefixNetwork
	EngineNetwork = "network of an engine " // by the engine's ID
	Sandbox       = schema.PrefixSandbox
	Endpoint      = schema.PrefixEndpoint
	Service       = schema.PrefixService
)

// Needs records that the verb relies on a thing as the next snapshot has it, although it may not write it.
// A verb that finds nothing to change calls it, so that it does not return before the kernel has what it
// found, or while that may still be reverted.
func (t *Tx) Needs(thing, id string) { t.needs = append(t.needs, thing+id) }

func (u *uses) set(key string) { u.keys[key] = true }

// setNamed sets a key, unless the name in it is empty.
func (u *uses) setNamed(what, name string) {
	if name != "" {
		u.set(what + " " + name)
	}
}

func (u *uses) need(key string) {
	if !u.keys[key] {
		u.keys[key] = false
	}
}

// uses returns what the transaction uses, once it was decided.
func (t *Tx) uses() *uses {
	if t.used != nil {
		return t.used
	}
	u := &uses{keys: map[string]bool{}}
	t.used = u
	for _, key := range t.needs {
		u.need(key)
	}
	for _, ch := range t.changes {
		if ch.from == nil && ch.to == nil {
			continue
		}
		u.set(ch.key)
		if strings.HasPrefix(ch.key, schema.PrefixPublish) { // of a sandbox
			u.set(schema.PrefixSandbox + strings.TrimPrefix(ch.key, schema.PrefixPublish))
		}
		u.add(ch.from)
		u.add(ch.to)
		if from, to := prefixesOf(ch.from), prefixesOf(ch.to); !slices.Equal(from, to) {
			u.prefixes = slices.Concat(u.prefixes, from, to)
		}
	}
	return u
}

// prefixesOf returns the prefixes that an object claims, which no other may overlap.
func prefixesOf(object any) (list []netip.Prefix) {
	switch v := object.(type) {
	case *model.Network:
		for _, s := range v.Claimed() {
			list = append(list, s.Prefix)
		}
	case *model.AddressPool:
		list = append(list, v.Prefix)
	}
	return list
}

// add adds what an object uses apart from its own key.
func (u *uses) add(object any) {
	switch v := object.(type) {
	case *model.Network:
		u.setNamed("network name", v.Name)
		u.setNamed("network name", v.OriginalName)
		if v.EngineNetwork != "" {
			u.set(EngineNetwork + v.EngineNetwork)
		}
		u.set(fmt.Sprint("network number ", v.Index))
	case *model.Sandbox:
		u.setNamed("sandbox name", v.Name)
		u.setNamed("sandbox name", v.OriginalName)
		u.setNamed("sandbox of an engine", v.EngineID)
		if v.SharesNetNS() {
			u.need(schema.PrefixSandbox + strings.TrimPrefix(v.NetworkMode, model.ModeContainer))
		} else {
			u.setNamed("namespace", v.NetNS)
		}
	case *model.Endpoint:
		u.need(schema.PrefixNetwork + v.NetworkID)
		u.address(v.NetworkID, v.IPv4.Addr(), v.IPv6.Addr())
		u.set(fmt.Sprint("MAC ", v.NetworkID, v.MAC))
		if v.SandboxID != "" { // changes of one sandbox follow each other
			u.set(schema.PrefixSandbox + v.SandboxID)
		}
	case *model.Service:
		u.need(schema.PrefixNetwork + v.NetworkID)
		u.address(v.NetworkID, v.IPv4, v.IPv6)
		u.set(fmt.Sprint("MAC ", v.NetworkID, v.MAC))
		u.set("service name " + v.NetworkID + strings.ToLower(v.Name))
		for _, b := range v.Ports {
			u.ports(b)
		}
	case *model.AddressPool:
		if v.NetworkID != "" {
			u.need(schema.PrefixNetwork + v.NetworkID)
		}
	case []publishRecord:
		for _, r := range v {
			u.ports(r.PortBinding)
		}
	}
}

func (u *uses) address(networkID string, addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			u.set(fmt.Sprint("address ", networkID, a))
		}
	}
}

// ports adds the host ports of a binding, at whatever address.
func (u *uses) ports(b model.PortBinding) {
	for i := range b.Count {
		u.set(fmt.Sprint("port ", b.Proto, b.HostPort+i))
	}
}
