// SPDX-License-Identifier: Apache-2.0

// Package uses finds out which changes of the desired state depend on each other.
package uses

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/schema"
)

// Set is what a change depends on. Changes that use different things may be applied at the same time:
// whichever of them fails can be reverted as if it had never been made.
type Set struct {
	// keys are keys of the store, and what is unique, such as names, addresses and host ports. A key is
	// mapped to true if the change sets or releases it, and to false if the change only needs it to stay as
	// it is.
	keys     map[string]bool
	prefixes []netip.Prefix // that the change claims or releases
}

// New returns what a change uses that writes nothing.
func New() *Set { return &Set{keys: map[string]bool{}} }

// Meets reports whether one of two changes sets something that the other one uses.
func (u *Set) Meets(o *Set) bool {
	for key, sets := range u.keys {
		if other, ok := o.keys[key]; ok && (sets || other) {
			return true
		}
	}
	return slices.ContainsFunc(u.prefixes, func(p netip.Prefix) bool { return slices.ContainsFunc(o.prefixes, p.Overlaps) })
}

// Publishes is the stored form of what a sandbox publishes.
type Publishes interface{ Bindings() []model.PortBinding }

// EngineNetwork begins the key of a network of an engine, by the engine's ID.
const EngineNetwork = "network of an engine "

// Sets reports whether the change sets a key.
func (u *Set) Sets(key string) bool { return u.keys[key] }

// Need adds a key that has to stay as it is.
func (u *Set) Need(key string) {
	if !u.keys[key] {
		u.keys[key] = false
	}
}

// Write adds what the change of an object uses, which is stored by a key. Either of the object's values is nil if there is none.
func (u *Set) Write(key string, from, to any) {
	u.set(key)
	if sandbox, ok := strings.CutPrefix(key, schema.PrefixPublish); ok {
		u.set(schema.PrefixSandbox + sandbox)
	}
	u.add(from)
	u.add(to)
	if from, to := prefixesOf(from), prefixesOf(to); !slices.Equal(from, to) {
		u.prefixes = slices.Concat(u.prefixes, from, to)
	}
}

func (u *Set) set(key string) { u.keys[key] = true }

// setNamed sets a key, unless the name in it is empty.
func (u *Set) setNamed(what, name string) {
	if name != "" {
		u.set(what + " " + name)
	}
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
func (u *Set) add(object any) {
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
			u.Need(schema.PrefixSandbox + strings.TrimPrefix(v.NetworkMode, model.ModeContainer))
		} else {
			u.setNamed("namespace", v.NetNS)
		}
	case *model.Endpoint:
		u.Need(schema.PrefixNetwork + v.NetworkID)
		u.address(v.NetworkID, v.IPv4.Addr(), v.IPv6.Addr())
		u.set(fmt.Sprint("MAC ", v.NetworkID, v.MAC))
		if v.SandboxID != "" { // changes of one sandbox follow each other
			u.set(schema.PrefixSandbox + v.SandboxID)
		}
	case *model.Service:
		u.Need(schema.PrefixNetwork + v.NetworkID)
		u.address(v.NetworkID, v.IPv4, v.IPv6)
		u.set(fmt.Sprint("MAC ", v.NetworkID, v.MAC))
		u.set("service name " + v.NetworkID + strings.ToLower(v.Name))
		for _, b := range v.Ports {
			u.ports(b)
		}
	case *model.AddressPool:
		if v.NetworkID != "" {
			u.Need(schema.PrefixNetwork + v.NetworkID)
		}
	case Publishes:
		for _, b := range v.Bindings() {
			u.ports(b)
		}
	}
}

func (u *Set) address(networkID string, addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			u.set(fmt.Sprint("address ", networkID, a))
		}
	}
}

// ports adds the host ports of a binding, at whatever address.
func (u *Set) ports(b model.PortBinding) {
	for i := range b.Count {
		u.set(fmt.Sprint("port ", b.Proto, b.HostPort+i))
	}
}
