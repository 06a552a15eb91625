// SPDX-License-Identifier: Apache-2.0

package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

func testEntries(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	ctx := t.Context()
	if _, err := a.Get(ctx, dir+"x"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("get of an absent key: %v, want ErrNotFound", err)
	}
	if got := list(t, a, dir); len(got) != 0 {
		t.Errorf("list of an absent prefix: %v", got)
	}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	want := map[string]string{
		dir + "x": "one", dir + "x/y": "a key below a key", dir + "x/y/z": "and below that", dir + "x-y": "", dir + "x.y": string(binary),
		dir + "w:,@+_": "every kind of character", dir + "deep/er/and/deeper": "alone in its directory",
	}
	put(t, a, want)
	if got := values(list(t, b, dir)); !cmp.Equal(got, want) {
		t.Errorf("list: %s", cmp.Diff(want, got))
	}
	if got := values(list(t, b, dir+"x/")); len(got) != 2 {
		t.Errorf("list of x/ returns %v, want x/y and x/y/z only", got)
	}
	for key, value := range want {
		if e, err := b.Get(ctx, key); err != nil || e.Key != key || string(e.Value) != value || e.Rev == (kv.Rev{}) {
			t.Errorf("get %s: %+v, %v", key, e, err)
		}
	}
	first := rev(t, a, dir+"x")
	commit(t, b, nil, kv.Put(dir+"x", []byte("two")))
	second := rev(t, a, dir+"x")
	commit(t, b, nil, kv.Put(dir+"x", []byte("one")))
	if third := rev(t, a, dir+"x"); first == second || second == third || third == first {
		t.Errorf("a key that was changed and changed back has revisions %v, %v, %v", first, second, third)
	}
	for range 2 { // the second deletes nothing
		commit(t, b, nil, kv.Delete(dir+"x"), kv.Delete(dir+"x/y/z"))
	}
	if _, err := a.Get(ctx, dir+"x"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("get of a deleted key: %v, want ErrNotFound", err)
	}
	if got := values(list(t, a, dir+"x/")); len(got) != 1 {
		t.Errorf("list of x/ after deletion: %v, want x/y", got)
	}
	commit(t, a, nil)
}

func testConditions(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	ctx := t.Context()
	key, other, absent := dir+"key", dir+"sub/other", dir+"absent"
	commit(t, a, []kv.Cond{kv.If(key, kv.Rev{})}, kv.Put(key, []byte("1")))
	commit(t, a, nil, kv.Put(other, []byte("1")))
	was := rev(t, a, key)
	current := rev(t, a, other)
	commit(t, b, []kv.Cond{kv.If(key, was)}, kv.Put(key, []byte("2")))
	before := values(list(t, a, dir))
	for name, try := range map[string]struct {
		conds []kv.Cond
		ops   []kv.Op
	}{
		"create of an existing key":              {[]kv.Cond{kv.If(key, kv.Rev{})}, []kv.Op{kv.Put(key, nil)}},
		"put of an old revision":                 {[]kv.Cond{kv.If(key, was)}, []kv.Op{kv.Put(key, nil)}},
		"delete of an old revision":              {[]kv.Cond{kv.If(key, was)}, []kv.Op{kv.Delete(key)}},
		"delete of a key that must not exist":    {[]kv.Cond{kv.If(key, kv.Rev{})}, []kv.Op{kv.Delete(key)}},
		"put of an absent key, by revision":      {[]kv.Cond{kv.If(absent, current)}, []kv.Op{kv.Put(absent, nil)}},
		"delete of an absent key, by revision":   {[]kv.Cond{kv.If(absent, current)}, []kv.Op{kv.Delete(absent)}},
		"condition on another key":               {[]kv.Cond{kv.If(key, was)}, []kv.Op{kv.Put(other, nil)}},
		"other key must not exist":               {[]kv.Cond{kv.If(key, kv.Rev{})}, []kv.Op{kv.Put(absent, nil)}},
		"second of two conditions":               {[]kv.Cond{kv.If(other, current), kv.If(key, was)}, []kv.Op{kv.Put(absent, nil), kv.Put(other, nil)}},
		"create after a change in one commit":    {[]kv.Cond{kv.If(key, kv.Rev{})}, []kv.Op{kv.Put(absent, nil), kv.Delete(other), kv.Put(key, nil)}},
		"condition alone, which does not hold":   {[]kv.Cond{kv.If(key, was)}, nil},
		"absence alone, which does not hold":     {[]kv.Cond{kv.If(key, kv.Rev{})}, nil},
		"revision of an absent key, alone":       {[]kv.Cond{kv.If(absent, was)}, nil},
		"absent key in an absent directory":      {[]kv.Cond{kv.If(dir+"no/such/key", was)}, []kv.Op{kv.Put(other, nil)}},
		"put below a directory, which conflicts": {[]kv.Cond{kv.If(key, was)}, []kv.Op{kv.Put(dir+"new/dir/key", nil)}},
	} {
		if err := a.Commit(ctx, try.conds, try.ops...); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
		if after := values(list(t, b, dir)); !cmp.Equal(before, after) {
			t.Fatalf("%s changed something: %s", name, cmp.Diff(before, after))
		}
	}
	commit(t, a, []kv.Cond{kv.If(key, rev(t, a, key)), kv.If(absent, kv.Rev{}), kv.If(dir+"no/such/dir", kv.Rev{})}, kv.Put(other, []byte("2")))
	commit(t, a, []kv.Cond{kv.If(key, rev(t, a, key))})
	commit(t, a, []kv.Cond{kv.If(absent, kv.Rev{})}, kv.Delete(absent))

	// A key that was deleted and created again with the same value is another key.
	was = rev(t, a, key)
	commit(t, b, nil, kv.Delete(key))
	commit(t, b, nil, kv.Put(key, []byte("2")))
	if err := a.Commit(ctx, []kv.Cond{kv.If(key, was)}, kv.Put(key, []byte("3"))); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("put with the revision of a former key: %v, want ErrConflict", err)
	}
	created := dir + "created"
	commit(t, a, nil, kv.Put(created, nil)) // never changed before it is deleted
	was = rev(t, a, created)
	commit(t, b, nil, kv.Delete(created))
	commit(t, b, []kv.Cond{kv.If(created, kv.Rev{})}, kv.Put(created, nil))
	if err := a.Commit(ctx, []kv.Cond{kv.If(created, was)}, kv.Delete(created)); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("delete with the revision of a former key: %v, want ErrConflict", err)
	}
	commit(t, a, []kv.Cond{kv.If(created, rev(t, b, created))}, kv.Delete(created))
}

// many returns conditions on n keys, which do not exist.
func many(dir string, n int) (conds []kv.Cond) {
	for i := range n {
		conds = append(conds, kv.If(dir+strconv.Itoa(i), kv.Rev{}))
	}
	return conds
}

func testLimits(t *testing.T, c Cluster, dir string) {
	s := c.Dial(t)
	ctx := t.Context()
	var full []kv.Op
	for i := range kv.MaxOps {
		full = append(full, kv.Put(fmt.Sprintf("%sfull/%02d", dir, i), bytes.Repeat([]byte{'x'}, kv.MaxCommit/kv.MaxOps-len(dir)-7)))
	}
	commit(t, s, nil, full...)
	var conds []kv.Cond // each op with a condition is one operation still
	for _, e := range list(t, s, dir+"full/") {
		conds = append(conds, kv.If(e.Key, e.Rev))
	}
	commit(t, s, conds, full...)
	var deletes []kv.Op
	for _, op := range full {
		deletes = append(deletes, kv.Delete(op.Key))
	}
	commit(t, s, nil, deletes...)
	commit(t, s, nil, full[:kv.MaxOps/2]...)
	conds, deletes = nil, deletes[:kv.MaxOps/2]
	for _, e := range list(t, s, dir+"full/") {
		conds = append(conds, kv.If(e.Key, e.Rev))
	}
	commit(t, s, conds, deletes...)
	if left := list(t, s, dir+"full/"); len(left) != 0 {
		t.Errorf("%d keys are left", len(left))
	}
	commit(t, s, nil, kv.Put(dir+"largest", make([]byte, kv.MaxValue)))
	if e, err := s.Get(ctx, dir+"largest"); err != nil || len(e.Value) != kv.MaxValue {
		t.Errorf("the largest value has %d bytes, %v", len(e.Value), err)
	}
	deep := dir + strings.Repeat("d/", (kv.MaxKey-len(dir))/2-1)
	commit(t, s, nil, kv.Put(deep+"k", nil))
	eventually(t, settle, func() string {
		if !s.Health().Reachable {
			return "the first ping has not been answered"
		}
		return ""
	})
	before := s.Health()
	refused := map[string]error{
		"too many ops":        s.Commit(ctx, nil, append([]kv.Op{kv.Put(dir+"one/more", nil)}, full...)...),
		"too many conditions": s.Commit(ctx, many(dir, kv.MaxOps+1)),
		"too many deletes":    s.Commit(ctx, many(dir, kv.MaxOps), kv.Delete(dir+"0")),
		"too large a value":   s.Commit(ctx, nil, kv.Put(dir+"k", make([]byte, kv.MaxValue+1))),
		"too large a commit":  s.Commit(ctx, nil, kv.Put(dir+"k", make([]byte, kv.MaxValue)), kv.Put(dir+"l", make([]byte, kv.MaxValue))),
		"two ops on a key":    s.Commit(ctx, nil, kv.Put(dir+"k", nil), kv.Delete(dir+"k")),
		"two conditions":      s.Commit(ctx, []kv.Cond{kv.If(dir+"k", kv.Rev{}), kv.If(dir+"k", kv.Rev{})}),
		"alive, too large":    s.Alive(ctx, dir+"k", make([]byte, kv.MaxValue+1), time.Second),
	}
	for _, key := range []string{"", "/", "a//b", "/a", "a/", ".", "a/..", "a/./b", "a b", "a=b", "ä", "a\x00", strings.Repeat("k", kv.MaxKey+1)} {
		refused[fmt.Sprintf("key %.20q", key)] = s.Commit(ctx, nil, kv.Put(key, nil))
		_, refused[fmt.Sprintf("get %.20q", key)] = s.Get(ctx, key)
		refused[fmt.Sprintf("condition on %.20q", key)] = s.Commit(ctx, []kv.Cond{kv.If(key, kv.Rev{})})
	}
	for _, prefix := range []string{"", "a", "/", "a//"} {
		_, refused[fmt.Sprintf("list %q", prefix)] = s.List(ctx, prefix)
		_, refused[fmt.Sprintf("watch %q", prefix)] = s.Watch(prefix)
	}
	for name, err := range refused {
		if !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if h := s.Health(); h != before {
		t.Errorf("refusals made the store look unreachable: %+v, before %+v", h, before)
	}
}
