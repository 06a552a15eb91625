// SPDX-License-Identifier: Apache-2.0

// Package schema defines the layout of the stored state, and converts a state between versions of
// it. A conversion knows the stored fields, not the model, which goes on changing.
package schema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-net/fairlead/control/store"
)

// Current is the version that this build writes:
//
//	1  up to commit abe0ab4
//	2  the manager of networks and sandboxes, a default route per family of endpoints, and what
//	   only this host knows of a network in a record of its own
//	3  the clients of published ports
//	4  the members by which alone the others reach what is outside of a network
const Current = 4

// Keys of the store. The key of an object is its prefix and its ID.
const (
	PrefixNetwork  = "network/"
	PrefixLocal    = "local/" // followed by a network's ID: what only this host knows of it
	PrefixSandbox  = "sandbox/"
	PrefixEndpoint = "endpoint/"
	PrefixPublish  = "publish/" // followed by the sandbox's ID: its publishes
	PrefixPool     = "pool/"
	PrefixService  = "service/"
	KeyVersion     = "meta/schema"
	KeyULA         = "meta/ula"
)

// steps[i] converts between versions i+1 and i+2.
var steps = []struct {
	up, down func(*conversion) error
}{
	{managersUp, managersDown},
	{sourcesUp, sourcesDown},
	{routersUp, routersDown},
}

// Version returns the version of a stored state, or 0 if the store is empty.
func Version(ctx context.Context, s store.Store) (int, error) {
	e, err := s.Get(ctx, KeyVersion)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	version := 0
	if err == nil {
		if err = json.Unmarshal(e.Value, &version); err == nil && version < 1 {
			err = fmt.Errorf("%d is not a version", version)
		}
		err = damaged(err)
	}
	if err != nil {
		return 0, fmt.Errorf("load %q: %w", KeyVersion, err)
	}
	return version, nil
}

// Upgrade converts a stored state to Current in one commit, and returns the version it had. It
// refuses the state of a later build. An empty store stays empty.
func Upgrade(ctx context.Context, s store.Store) (from int, err error) {
	from, err = Version(ctx, s)
	if err != nil || from == 0 || from == Current {
		return from, err
	}
	if from > Current {
		return from, fmt.Errorf("load the state: it was written by a newer fairlead (schema %d, this one knows %d): use that, or another state directory", from, Current)
	}
	return from, convert(ctx, s, Current, func(c *conversion) error {
		for _, step := range steps[from-1:] {
			if err := step.up(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// Downgrade converts a stored state to an earlier version in one commit. It does nothing if the
// state has this version, an earlier one, or none.
func Downgrade(ctx context.Context, s store.Store, to int) error {
	from, err := Version(ctx, s)
	if err != nil || from <= to {
		return err
	}
	if from > Current || to < 1 {
		return fmt.Errorf("the state has schema %d and cannot be converted to schema %d (use the build that wrote it)", from, to)
	}
	return convert(ctx, s, to, func(c *conversion) error {
		for i := from - 2; i >= to-1; i-- {
			if err := steps[i].down(c); err != nil {
				return err
			}
		}
		return nil
	})
}

func damaged(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", store.ErrDamaged, err)
}

// conversion is a state while it is converted.
type conversion struct {
	objects map[string]object   // by key: those with an object as their value
	lists   map[string][]object // by key: those with a list of objects; empty ones are removed
	removed map[string]bool
}

// object holds the encoded fields of a stored object.
type object map[string]json.RawMessage

func convert(ctx context.Context, s store.Store, to int, do func(*conversion) error) error {
	c := &conversion{objects: map[string]object{}, lists: map[string][]object{}, removed: map[string]bool{}}
	for _, prefix := range []string{PrefixNetwork, PrefixLocal, PrefixSandbox, PrefixEndpoint} {
		entries, err := s.List(ctx, prefix)
		if err != nil {
			return fmt.Errorf("convert the state: %w", err)
		}
		for _, e := range entries {
			var o object
			if err := json.Unmarshal(e.Value, &o); err != nil {
				return fmt.Errorf("load %q: %w", e.Key, damaged(err))
			}
			c.objects[e.Key] = o
		}
	}
	lists, err := s.List(ctx, PrefixPublish)
	if err != nil {
		return fmt.Errorf("convert the state: %w", err)
	}
	for _, e := range lists {
		var list []object
		if err := json.Unmarshal(e.Value, &list); err != nil {
			return fmt.Errorf("load %q: %w", e.Key, damaged(err))
		}
		c.lists[e.Key] = list
	}
	if err := do(c); err != nil {
		return err
	}
	ops := []store.Op{store.Put(KeyVersion, fmt.Append(nil, to))}
	for key, o := range c.objects {
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode %q: %w", key, err)
		}
		ops = append(ops, store.Put(key, b))
	}
	for key, list := range c.lists {
		if len(list) == 0 {
			ops = append(ops, store.Delete(key))
			continue
		}
		b, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encode %q: %w", key, err)
		}
		ops = append(ops, store.Put(key, b))
	}
	for key := range c.removed {
		ops = append(ops, store.Delete(key))
	}
	if _, err := s.Commit(ctx, ops...); err != nil {
		return fmt.Errorf("convert the state to schema %d: %w", to, err)
	}
	return nil
}

// each calls do with the ID of every object with the prefix.
func (c *conversion) each(prefix string, do func(id string, o object) error) error {
	for key, o := range c.objects {
		if id, ok := strings.CutPrefix(key, prefix); ok {
			if err := do(id, o); err != nil {
				return fmt.Errorf("load %q: %w", key, err)
			}
		}
	}
	return nil
}

func (c *conversion) remove(key string) {
	delete(c.objects, key)
	c.removed[key] = true
}

// get decodes a field into v, which stays as it is if there is no such field.
func (o object) get(field string, v any) error {
	raw, ok := o[field]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("field %s: %w", field, damaged(err))
	}
	return nil
}

// take is like get and removes the field.
func (o object) take(field string, v any) error {
	defer delete(o, field)
	return o.get(field, v)
}

// move moves a field as it is to another object.
func (o object) move(field string, to object) {
	if raw, ok := o[field]; ok {
		to[field] = raw
		delete(o, field)
	}
}

// set sets a field.
func (o object) set(field string, v string) { o.setValue(field, v) }

// setValue sets a field whose type can always be encoded.
func (o object) setValue(field string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a string and decoded fields can be encoded
	}
	o[field] = b
}

// setTrue sets a field to true. Fields that are false are left out.
func (o object) setTrue(field string, v bool) {
	if v {
		o[field] = json.RawMessage("true")
	}
}
