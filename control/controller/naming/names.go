// SPDX-License-Identifier: Apache-2.0

package naming

import (
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// Validate refuses what cannot be the name of a sandbox.
func Validate(name string) error {
	if model.ValidName(name) {
		return nil
	}
	return model.Refuse(model.ErrInvalid, "Invalid sandbox name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed, at least 2 and at most %d of them (choose another)", name, model.MaxNameLen)
}

// CheckFree refuses the name of a sandbox other than id.
func CheckFree(t *txn.Tx, name, id string) error {
	for o := range t.Next.SandboxesNamed(name) {
		if o.ID != id && o.HasName(name) {
			return model.Refuse(model.ErrConflict, "Conflict. The sandbox name %q is already in use by sandbox %q (remove it with: %s rm %s, or choose another name)",
				name, model.ShortID(o.ID), o.ManagedBy.CLI(), name)
		}
	}
	return nil
}

// RenameLinks makes the links to a sandbox's former name those to its new one, in the networks that it is connected to.
func RenameLinks(t *txn.Tx, was *model.Sandbox, name string) {
	for own := range t.Next.EndpointsOf(was.ID) {
		for _, ep := range slices.Collect(t.Next.Members(own.NetworkID)) {
			links := slices.Clone(ep.Links)
			for i := range links {
				if strings.EqualFold(links[i].Target, was.Name) {
					links[i].Target = name
				}
			}
			if !slices.Equal(links, ep.Links) {
				now := *ep
				now.Links = links
				t.PutEndpoint(ep.ID, &now)
			}
		}
	}
}

// CheckRouters refuses a name that would make a sandbox the router of others in its networks, or no longer that.
func CheckRouters(t *txn.Tx, was *model.Sandbox, name string) error {
	now := *was
	now.Name = name
	for ep := range t.Next.EndpointsOf(was.ID) {
		if n := t.Next.Network(ep.NetworkID); n != nil && n.IsRouter(was) != n.IsRouter(&now) {
			return model.Refuse(model.ErrConflict, "network %s has gateway %s by its name, and sandbox %s is connected to it (disconnect it first: fairlead network disconnect %s %s)",
				n.Name, n.Router, was.Name, n.Name, was.Name)
		}
	}
	return nil
}
