// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/store"
)

// refreshVar makes TestConvert write its golden file.
const refreshVar = "FAIRLEAD_REFRESH"

// earlier opens a copy of the state that the build of commit abe0ab4, the last of schema 1, wrote.
func earlier(t *testing.T) *store.Bolt {
	t.Helper()
	f, err := os.Open("testdata/abe0ab4.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBolt(store.BoltConfig{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// dump returns a state as text, one value a line.
func dump(t *testing.T, s store.Store) string {
	t.Helper()
	entries, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		var v any // sorts the fields
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %s\n", e.Key, b)
	}
	return out.String()
}

// A state of schema 1 becomes one of the current schema and, converted back, is what it was.
func TestConvert(t *testing.T) {
	ctx := t.Context()
	s := earlier(t)
	before := dump(t, s)
	if from, err := Upgrade(ctx, s); err != nil || from != 1 {
		t.Fatalf("upgrade: from %d, %v", from, err)
	}
	upgraded := dump(t, s)
	const golden = "testdata/current.txt"
	if os.Getenv(refreshVar) != "" {
		if err := os.WriteFile(golden, []byte(upgraded), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), upgraded); diff != "" {
		t.Errorf("upgraded (+) differs from %s (-), which is written if %s is set:\n%s", golden, refreshVar, diff)
	}
	if from, err := Upgrade(ctx, s); err != nil || from != Current || dump(t, s) != upgraded {
		t.Errorf("upgrade again: from %d, %v", from, err)
	}
	if err := Downgrade(ctx, s, Current); err != nil || dump(t, s) != upgraded {
		t.Errorf("downgrade to the schema it has: %v", err)
	}
	for range 2 { // the second time it has nothing to do
		if err := Downgrade(ctx, s, 1); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, dump(t, s)); diff != "" {
			t.Errorf("downgraded (+) differs from the state that the earlier build wrote (-):\n%s", diff)
		}
	}
}

// A port that only some clients reach does not exist for a build that would publish it for all of them; other ports do.
func TestLimitedPortsAreWithdrawn(t *testing.T) {
	ctx := t.Context()
	s, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "state.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	put := func(key, value string) store.Op { return store.Put(key, []byte(value)) }
	if _, err := s.Commit(ctx, put(KeyVersion, "3"),
		put("sandbox/a", `{"ports":[{"port":80,"from":"10.0.0.0/8"},{"port":81}]}`), put("publish/a", `[{"id":1,"port":80,"from":"10.0.0.0/8"},{"id":2,"port":81}]`),
		put("sandbox/b", `{"ports":[{"port":80,"from":"::/0"}]}`), put("publish/b", `[{"id":3,"port":80,"from":"::/0"}]`),
		put("sandbox/c", `{"ports":[{"port":80}]}`), put("publish/c", `[{"id":4,"port":80}]`), put("sandbox/d", `{"name":"d"}`)); err != nil {
		t.Fatal(err)
	}
	if err := Downgrade(ctx, s, 2); err != nil {
		t.Fatal(err)
	}
	want := `meta/schema 2
publish/a [{"id":2,"port":81}]
publish/c [{"id":4,"port":80}]
sandbox/a {"ports":[{"port":81}]}
sandbox/b {}
sandbox/c {"ports":[{"port":80}]}
sandbox/d {"name":"d"}
`
	if diff := cmp.Diff(want, dump(t, s)); diff != "" {
		t.Errorf("downgraded (+) differs from what it should be (-):\n%s", diff)
	}
	if from, err := Upgrade(ctx, s); err != nil || from != 2 || dump(t, s) != strings.Replace(want, "schema 2", fmt.Sprint("schema ", Current), 1) {
		t.Errorf("upgrade: from %d, %v:\n%s", from, err, dump(t, s))
	}
}

// A network with a gateway of its own lets nothing out for a build that would send it by the host; other networks stay.
func TestGatedNetworksAreClosed(t *testing.T) {
	ctx := t.Context()
	s, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "state.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	put := func(key, value string) store.Op { return store.Put(key, []byte(value)) }
	if _, err := s.Commit(ctx, put(KeyVersion, "4"),
		put("network/a", `{"name":"a","options":{"fairlead.gateway":"vpn","x":"y"},"router":"vpn"}`), put("network/b", `{"name":"b","options":{"x":"y"}}`)); err != nil {
		t.Fatal(err)
	}
	if err := Downgrade(ctx, s, 3); err != nil {
		t.Fatal(err)
	}
	want := `meta/schema 3
network/a {"internal":true,"name":"a","options":{"x":"y"}}
network/b {"name":"b","options":{"x":"y"}}
`
	if diff := cmp.Diff(want, dump(t, s)); diff != "" {
		t.Errorf("downgraded (+) differs from what it should be (-):\n%s", diff)
	}
	if from, err := Upgrade(ctx, s); err != nil || from != 3 || dump(t, s) != strings.Replace(want, "schema 3", "schema 4", 1) {
		t.Errorf("upgrade: from %d, %v:\n%s", from, err, dump(t, s))
	}
}

// failing is a store whose commits fail.
type failing struct{ store.Store }

var errFailing = errors.New("no space left")

func (failing) Commit(context.Context, ...store.Op) (uint64, error) { return 0, errFailing }

// A conversion that fails changes nothing, and one that cannot be done is refused.
func TestConvertRefuses(t *testing.T) {
	ctx := t.Context()
	s := earlier(t)
	before := dump(t, s)
	if _, err := Upgrade(ctx, failing{s}); !errors.Is(err, errFailing) || dump(t, s) != before {
		t.Errorf("upgrade: %v", err)
	}
	for key, value := range map[string]string{
		"network/x": "{", "network/y": "[]", "sandbox/x": `{"owned":"yes"}`, "endpoint/x": `{"gateway":1}`, "publish/x": `{"id":1}`, "meta/schema": "[]",
	} {
		s := earlier(t)
		if _, err := s.Commit(ctx, store.Put(key, []byte(value))); err != nil {
			t.Fatal(err)
		}
		if _, err := Upgrade(ctx, s); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), key) {
			t.Errorf("upgrade with %s = %s: %v", key, value, err)
		}
	}
	if _, err := s.Commit(ctx, store.Put(KeyVersion, fmt.Append(nil, Current+1))); err != nil {
		t.Fatal(err)
	}
	if _, err := Upgrade(ctx, s); err == nil || errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "written by a newer fairlead") {
		t.Errorf("upgrade of a later schema: %v", err)
	}
	if err := Downgrade(ctx, s, 1); err == nil || !strings.Contains(err.Error(), "cannot be converted") {
		t.Errorf("downgrade of a later schema: %v", err)
	}
	empty, err := store.OpenBolt(store.BoltConfig{Path: filepath.Join(t.TempDir(), "empty.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if from, err := Upgrade(ctx, empty); err != nil || from != 0 || dump(t, empty) != "" {
		t.Errorf("upgrade of an empty store: from %d, %v", from, err)
	}
}

// A binary shows which schema it writes.
func TestOfBinary(t *testing.T) {
	if want := fmt.Sprintf("fairlead-stored-schema:%d;", Current); mark != want {
		t.Errorf("the mark is %q, want %q", mark, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OfBinary(self); err != nil || got != Current {
		t.Errorf("this binary has schema %d, %v", got, err)
	}
	for text, want := range map[string]int{
		"": 1, "ELF": 1, "fairlead-stored-schema:": 1, "fairlead-stored-schema:x;fairlead-stored-schema:37;": 37,
	} {
		path := filepath.Join(t.TempDir(), "binary")
		if err := os.WriteFile(path, bytes.Join([][]byte{[]byte("\x7f"), []byte(text), nil}, []byte{0}), 0o700); err != nil {
			t.Fatal(err)
		}
		if got, err := OfBinary(path); err != nil || got != want {
			t.Errorf("a binary with %q has schema %d, %v, want %d", text, got, err, want)
		}
	}
	if _, err := OfBinary("/does/not/exist"); err == nil {
		t.Error("a binary that does not exist has a schema")
	}
}
