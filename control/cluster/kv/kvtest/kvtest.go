// SPDX-License-Identifier: Apache-2.0

// Package kvtest has the tests that every store of a cluster passes, and what they need: real
// servers in a network namespace and connections that can be cut.
package kvtest

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// long makes outages and races as long as an operator would: minutes for each store.
var long = flag.Bool("long", false, "test the stores for minutes, with outages of 60 s and 1 000 races")

// Cluster is a store under test. Its methods fail the test if they cannot do what they say.
type Cluster interface {
	// Dial returns a client with a connection of its own, which the test's end closes.
	Dial(t *testing.T) *Client
	// Stop kills the server, without a chance to say goodbye. Start starts it with its data,
	// and may return before it answers.
	Stop(t *testing.T)
	Start(t *testing.T)
	// Wipe replaces the server by one without data, which runs.
	Wipe(t *testing.T)
	// Compact removes what the server keeps of the past, if it keeps any.
	Compact(t *testing.T)
	// TTL is the shortest time to live of a lease. A lease that is not renewed is removed
	// within Grace.
	TTL() time.Duration
	Grace() time.Duration
}

// Client is a store whose connection can be cut: the server looks dead while it is.
type Client struct {
	kv.Store
	Cut func(bool)
}

// Config is what the clients under test are made with: without regular lists, which would hide
// lost events, and with patience for a machine on which four servers start at once.
func Config(name string) kv.Config {
	return kv.Config{Name: name, Relist: 24 * time.Hour, CallTimeout: 20 * time.Second, PingTimeout: 5 * time.Second}
}

// settle is the longest time in which a client notices that the store answers again, and brings
// its watches up to date; twice what is promised, as these tests share the machine.
const settle = 10 * time.Second

// Run runs the tests against a store that runs, and holds nothing that matters: first, at once,
// those that leave the server alone.
func Run(t *testing.T, c Cluster) {
	type test struct {
		name string
		run  func(*testing.T, Cluster, string)
	}
	t.Run("Undisturbed", func(t *testing.T) {
		for _, test := range []test{
			{"Entries", testEntries},
			{"Conditions", testConditions},
			{"Limits", testLimits},
			{"Concurrent", testConcurrent},
			{"Races", testRaces},
			{"Watch", testWatch},
			{"Churn", testChurn},
			{"Alive", testAlive},
			{"Close", testClose},
			{"ConnectionCut", testConnectionCut},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(t, c, "test/"+strings.ToLower(test.name)+"/")
			})
		}
	})
	for _, test := range []test{
		{"Compaction", testCompaction},
		{"Outage", testOutage},
		{"Wiped", testWiped},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c, "test/"+strings.ToLower(test.name)+"/") })
	}
}

// commit commits, and fails the test if that does not succeed.
func commit(t *testing.T, s kv.Store, conds []kv.Cond, ops ...kv.Op) {
	t.Helper()
	if err := s.Commit(t.Context(), conds, ops...); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// put sets keys to values, in commits that all stores accept.
func put(t *testing.T, s kv.Store, values map[string]string) {
	t.Helper()
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(values)), kv.MaxOps) {
		var ops []kv.Op
		for _, key := range chunk {
			ops = append(ops, kv.Put(key, []byte(values[key])))
		}
		commit(t, s, nil, ops...)
	}
}

// rev returns the revision of a key, zero if it does not exist.
func rev(t *testing.T, s kv.Store, key string) kv.Rev {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil && err != kv.ErrNotFound {
		t.Fatalf("get %s: %v", key, err)
	}
	return e.Rev
}

// values returns entries as a map.
func values(list []kv.Entry) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		m[e.Key] = string(e.Value)
	}
	return m
}

// list returns the entries under a prefix, checked for order.
func list(t *testing.T, s kv.Store, prefix string) []kv.Entry {
	t.Helper()
	found, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("list %s: %v", prefix, err)
	}
	if !slices.IsSortedFunc(found, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) }) {
		t.Errorf("list %s is not sorted", prefix)
	}
	return found
}

// eventually waits until check returns "", and fails the test with its last answer otherwise.
func eventually(t *testing.T, within time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		got := check()
		if got == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", within, got)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A follower is the consumer of a watch: it holds what the updates say, and checks each.
type follower struct {
	prefix string
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	got     map[string]kv.Entry
	past    map[string]map[kv.Rev]bool // revisions that were replaced
	updates int
	resets  int
	faults  []string
}

// follow watches a prefix until the test ends. Each update takes the consumer as long as slow says.
func follow(t *testing.T, s kv.Store, prefix string, slow time.Duration) *follower {
	t.Helper()
	w, err := s.Watch(prefix)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{prefix: prefix, done: make(chan struct{}), got: map[string]kv.Entry{}, past: map[string]map[kv.Rev]bool{}}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(f.done)
		for {
			u, err := w.Next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					f.fault("Next: %v", err)
				}
				return
			}
			f.take(u)
			time.Sleep(slow)
		}
	}()
	t.Cleanup(func() {
		f.cancel()
		<-f.done
		if err := w.Close(); err != nil {
			t.Errorf("close the watcher: %v", err)
		}
		for _, fault := range f.faults {
			t.Errorf("watch of %s: %s", prefix, fault)
		}
	})
	return f
}

func (f *follower) fault(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, fmt.Sprintf(format, args...))
}

// take applies an update.
func (f *follower) take(u kv.Update) {
	keys := slices.Clone(u.Deleted)
	for _, e := range u.Entries {
		keys = append(keys, e.Key)
	}
	if slices.Sort(keys); len(slices.Compact(slices.Clone(keys))) != len(keys) {
		f.fault("a key occurs twice in %v", keys)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, f.prefix) {
			f.fault("reports %s", key)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.updates == 0 && !u.Reset {
		f.faults = append(f.faults, "the first update is not a reset")
	}
	f.updates++
	if u.Reset {
		f.resets++
		for key, e := range f.got {
			f.replaced(key, e.Rev)
		}
		clear(f.got)
	}
	for _, key := range u.Deleted {
		f.replaced(key, f.got[key].Rev)
		delete(f.got, key)
	}
	for _, e := range u.Entries {
		if old, ok := f.got[e.Key]; ok && old.Rev != e.Rev {
			f.replaced(e.Key, old.Rev)
		}
		if f.past[e.Key][e.Rev] && !u.Reset {
			f.faults = append(f.faults, fmt.Sprintf("%s returned to revision %v", e.Key, e.Rev))
		}
		f.got[e.Key] = e
	}
}

func (f *follower) replaced(key string, rev kv.Rev) {
	if f.past[key] == nil {
		f.past[key] = map[kv.Rev]bool{}
	}
	f.past[key][rev] = true
}

// counts returns how many updates were seen, and how many of them were resets.
func (f *follower) counts() (updates, resets int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.updates, f.resets
}

// begun waits for the first reset.
func (f *follower) begun(t *testing.T) {
	t.Helper()
	eventually(t, settle, func() string {
		if n, _ := f.counts(); n == 0 {
			return "the watch has reported nothing"
		}
		return ""
	})
}

// lacks returns how what the follower holds differs from the entries that it should hold.
func (f *follower) lacks(want []kv.Entry) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := map[string]kv.Entry{}
	for _, e := range want {
		wanted[e.Key] = e
	}
	if maps.EqualFunc(wanted, f.got, func(a, b kv.Entry) bool { return a.Rev == b.Rev && string(a.Value) == string(b.Value) }) {
		return ""
	}
	return "the store's entries (-) and the watcher's (+) differ:\n" + cmp.Diff(wanted, f.got)
}

// equals waits until the follower holds what the store holds.
func (f *follower) equals(t *testing.T, s kv.Store, within time.Duration) {
	t.Helper()
	want := list(t, s, f.prefix)
	eventually(t, within, func() string { return f.lacks(want) })
}
