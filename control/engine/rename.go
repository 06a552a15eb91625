// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// SyncEngineNames renames engine-managed networks and sandboxes to the names that the engine
// uses. If a name is already taken, the object gets its original name. Objects that names
// does not contain keep their name. The original name continues to find the object.
func (e *Engine) SyncEngineNames(ctx context.Context, names model.EngineNames) error {
	var renamed [][2]string
	err := e.state.Update(ctx, func(t *txn.Tx) error {
		t.StoreOnly = true // names are not part of the kernel's state
		recordEngine(t, names)
		renamed = append(renameNetworks(t, names.Networks), renameSandboxes(t, names.Containers)...)
		if setAliases(t, names.Aliases) {
			t.StoreOnly = false // services may have other backends
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range renamed {
		e.state.Log().Info("renamed to match the engine", "was", r[0], "name", r[1])
	}
	return nil
}

func renameNetworks(t *txn.Tx, names map[string]string) (renamed [][2]string) {
	all := make([]naming, 0, t.Next.Counts().Networks)
	for n := range t.Next.Networks() {
		id := n.ID
		want := ""
		if n.ManagedBy == model.ByEngine && resource.ValidateNetwork(model.NetworkSpec{Name: names[id]}) == nil {
			want = names[id]
		}
		all = append(all, naming{id, n.Name, cmp.Or(n.OriginalName, n.Name), want})
	}
	for _, new := range assignNames(all) {
		n := *t.Next.Network(new.id)
		renamed = append(renamed, [2]string{n.Name, new.name})
		for sb := range t.Next.SandboxesInMode(n.Name) {
			if sb.ManagedBy == model.ByEngine {
				now := *sb
				now.NetworkMode = new.name
				t.PutSandbox(sb.ID, &now)
			}
		}
		n.Name, n.OriginalName = new.name, new.original
		t.PutNetwork(n.ID, &n)
	}
	return renamed
}

func renameSandboxes(t *txn.Tx, names map[string]model.EngineName) (renamed [][2]string) {
	wants := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(names)) {
		ep, known := t.Next.Endpoint(id), names[id]
		if ep == nil {
			continue
		}
		sb := t.Next.Sandbox(ep.SandboxID)
		if sb == nil || sb.ManagedBy != model.ByEngine || !resource.ValidID(known.ID) {
			continue
		}
		if sb.EngineID != known.ID {
			now := *sb
			now.EngineID = known.ID
			t.PutSandbox(sb.ID, &now)
		}
		if model.ValidName(known.Name) {
			wants[sb.ID] = known.Name
		}
	}
	all := make([]naming, 0, t.Next.Counts().Sandboxes)
	for sb := range t.Next.Sandboxes() {
		id := sb.ID
		all = append(all, naming{id, sb.Name, cmp.Or(sb.OriginalName, sb.Name), wants[id]})
	}
	for _, new := range assignNames(all) {
		sb := *t.Next.Sandbox(new.id)
		renamed = append(renamed, [2]string{sb.Name, new.name})
		sb.Name, sb.OriginalName = new.name, new.original
		t.PutSandbox(sb.ID, &sb)
	}
	return renamed
}

// setAliases gives endpoints the aliases that the engine has for them, except those that cannot be
// resolved. It reports whether any changed.
func setAliases(t *txn.Tx, aliases map[string][]string) (changed bool) {
	for _, id := range slices.Sorted(maps.Keys(aliases)) {
		ep := t.Next.Endpoint(id)
		if ep == nil || ep.Reserved.IsZero() {
			continue
		}
		want := slices.DeleteFunc(slices.Clone(aliases[id]), func(a string) bool { return !model.ValidAlias(a) })
		if slices.Equal(want, ep.Aliases) {
			continue
		}
		now := *ep
		now.Aliases = want
		t.PutEndpoint(id, &now)
		changed = true
	}
	return changed
}

// naming holds the current, the original and the wanted name of an object. The wanted
// name is "" if the object keeps its name.
type naming struct{ id, name, original, want string }

// assignNames returns the objects whose name changes, with the new name set. An object gets
// its wanted name unless another object keeps that name, has it as its original name, or wants
// it too and has a lower ID. In these cases it gets its original name.
func assignNames(all []naming) (changed []naming) {
	slices.SortFunc(all, func(a, b naming) int { return strings.Compare(a.id, b.id) })
	taken := map[string]string{} // name -> ID
	for _, o := range all {
		taken[o.original] = o.id
		if o.want == "" {
			taken[o.name] = o.id
		}
	}
	for _, o := range all {
		if o.want == "" {
			continue
		}
		if by, ok := taken[o.want]; ok && by != o.id {
			o.want = o.original
		}
		taken[o.want] = o.id
		if o.want != o.name {
			o.name = o.want
			changed = append(changed, o)
		}
	}
	return changed
}
