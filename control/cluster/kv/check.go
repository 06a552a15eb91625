// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"fmt"
	"slices"
	"strings"
)

// CheckKey returns an error unless every backend can store a key of this name: segments of
// letters, digits and -_.:,@+ between slashes, none of them empty, "." or "..".
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("%w: the key %.40q… has %d bytes, more than %d", ErrInvalid, key, len(key), MaxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%w: the key %q has a segment %q", ErrInvalid, key, segment)
		}
		if i := strings.IndexFunc(segment, isForeign); i >= 0 {
			return fmt.Errorf("%w: the key %q contains %q", ErrInvalid, key, segment[i:i+1])
		}
	}
	return nil
}

// isForeign reports whether a character is not allowed in keys. ZooKeeper refuses some of them;
// "=" is for the backend's own use.
func isForeign(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-_.:,@+", r)
}

// CheckPrefix returns an error unless a prefix consists of whole segments and ends with a slash.
func CheckPrefix(prefix string) error {
	dir, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: the prefix %q does not end with a slash", ErrInvalid, prefix)
	}
	return CheckKey(dir)
}

// changes merges conditions and ops of a commit by key, sorted, if all backends can execute it.
func changes(conds []Cond, ops []Op) ([]Change, error) {
	byKey := make(map[string]*Change, len(conds)+len(ops))
	at := func(key string) (*Change, error) {
		if c := byKey[key]; c != nil {
			return c, nil
		}
		byKey[key] = &Change{Key: key}
		return byKey[key], CheckKey(key)
	}
	for _, cond := range conds {
		c, err := at(cond.Key)
		if err != nil {
			return nil, err
		}
		if c.Has {
			return nil, fmt.Errorf("%w: two conditions on %q", ErrInvalid, cond.Key)
		}
		c.Has, c.Rev = true, cond.Rev
	}
	size := 0
	for _, op := range ops {
		c, err := at(op.Key)
		switch {
		case err != nil:
			return nil, err
		case c.Kind != ChangeNone:
			return nil, fmt.Errorf("%w: two changes of %q", ErrInvalid, op.Key)
		case len(op.Value) > MaxValue:
			return nil, fmt.Errorf("%w: the value of %q has %d bytes, more than %d", ErrInvalid, op.Key, len(op.Value), MaxValue)
		case op.Delete:
			c.Kind = ChangeDelete
		default:
			c.Kind, c.Value = ChangePut, op.Value
		}
		size += len(op.Value)
	}
	list := make([]Change, 0, len(byKey))
	count := len(byKey)
	for key, c := range byKey {
		size += len(key)
		list = append(list, *c)
		if c.Has && c.Kind == ChangeDelete {
			count++
		}
	}
	switch {
	case count > MaxOps:
		return nil, fmt.Errorf("%w: a commit of %d operations, more than %d", ErrInvalid, count, MaxOps)
	case size > MaxCommit:
		return nil, fmt.Errorf("%w: a commit of %d bytes, more than %d", ErrInvalid, size, MaxCommit)
	}
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return list, nil
}
