// SPDX-License-Identifier: Apache-2.0

package kvtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

func testWatch(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	empty := follow(t, a, dir+"in/", 0) // a prefix that does not exist
	empty.begun(t)
	put(t, b, map[string]string{dir + "in/1": "one", dir + "in/sub/2": "two", dir + "in-side": "not below the prefix", dir + "in": "neither"})
	full := follow(t, a, dir+"in/", 0) // one that does
	full.begun(t)
	step := func(what string, ops ...kv.Op) {
		t.Helper()
		if len(ops) > 0 {
			commit(t, b, nil, ops...)
		}
		for _, f := range []*follower{empty, full} {
			want := list(t, b, dir+"in/")
			eventually(t, settle, func() string {
				if diff := f.lacks(want); diff != "" {
					return what + ": " + diff
				}
				return ""
			})
		}
	}
	step("created before and after the watch")
	step("changed", kv.Put(dir+"in/1", []byte("uno")))
	step("written with the same value", kv.Put(dir+"in/1", []byte("uno")))
	step("new in a new directory", kv.Put(dir+"in/a/b/c", []byte("deep")))
	step("deleted, created and changed at once", kv.Delete(dir+"in/1"), kv.Put(dir+"in/3", nil), kv.Put(dir+"in/sub/2", []byte("due")))
	step("deleted, the last of its directory", kv.Delete(dir+"in/a/b/c"))
	step("created in a directory that was empty", kv.Put(dir+"in/a/b/c", nil))
	step("created again after deletion", kv.Put(dir+"in/1", []byte("again")))
	step("all deleted", kv.Delete(dir+"in/1"), kv.Delete(dir+"in/3"), kv.Delete(dir+"in/sub/2"), kv.Delete(dir+"in/a/b/c"))
	step("the first one again", kv.Put(dir+"in/a/b/d", nil))
	for _, f := range []*follower{empty, full} {
		if _, resets := f.counts(); resets != 1 {
			t.Errorf("%d resets while nothing was lost, want the first one only", resets)
		}
	}

	// A call that its context ends loses nothing.
	w, err := a.Watch(dir + "in/")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if u, err := w.Next(t.Context()); err != nil || !u.Reset || len(u.Entries) != 1 {
		t.Fatalf("the first update: %+v, %v", u, err)
	}
	for i := range 3 {
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := w.Next(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("next without a change: %v, want that its time is over", err)
		}
		cancel()
		commit(t, b, nil, kv.Put(dir+"in/a/b/d", []byte{byte(i)}))
		if u, err := w.Next(t.Context()); err != nil || u.Reset || len(u.Entries) != 1 || u.Entries[0].Value[0] != byte(i) {
			t.Fatalf("next after a change: %+v, %v", u, err)
		}
	}
}

// testChurn compares what watchers hold with the store after many changes of many keys, and
// checks that no watcher ever returns to an older revision.
func testChurn(t *testing.T, c Cluster, dir string) {
	const keys, writers = 1000, 4
	lasting := 1500 * time.Millisecond
	if *long {
		lasting = 20 * time.Second
	}
	key := func(i int) string { return fmt.Sprintf("%s%d/%d/key-%d", dir, i%2, i%10, i) }
	a, b := c.Dial(t), c.Dial(t)
	initial := map[string]string{}
	for i := 0; i < keys; i += 2 {
		initial[key(i)] = "0"
	}
	put(t, a, initial)
	watchers := []*follower{follow(t, a, dir, 0), follow(t, b, dir, 50*time.Millisecond), follow(t, b, dir+"1/", 0), follow(t, a, dir+"0/4/", 200*time.Millisecond)}
	watchers[0].begun(t)
	end := time.Now().Add(lasting)
	var wg sync.WaitGroup
	commits := make([]int, writers)
	for n := range writers { // each has keys of its own
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			s := []*Client{a, b}[n%2]
			for time.Now().Before(end) {
				byKey := map[string]kv.Op{}
				for range 1 + random.IntN(8) {
					k := key(random.IntN(keys/writers)*writers + n)
					byKey[k] = kv.Put(k, []byte(strconv.Itoa(commits[n])))
					if random.IntN(3) == 0 {
						byKey[k] = kv.Delete(k)
					}
				}
				var ops []kv.Op
				for _, op := range byKey {
					ops = append(ops, op)
				}
				if err := s.Commit(t.Context(), nil, ops...); err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				commits[n]++
			}
		})
	}
	wg.Wait()
	for _, f := range watchers {
		f.equals(t, a, 2*settle)
	}
	updates, resets := watchers[0].counts()
	t.Logf("%v commits of 1 to 8 keys; the first watcher had %d updates, %d resets", commits, updates, resets)
}

func testClose(t *testing.T, c Cluster, dir string) {
	s := c.Dial(t)
	w, err := s.Watch(dir + "w/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := s.Watch(dir + "w/")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 3)
	go func() { _, err := w.Next(t.Context()); ended <- err }()
	time.Sleep(50 * time.Millisecond)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, kv.ErrClosed) {
		t.Errorf("next of a closed watcher: %v, want ErrClosed", err)
	}
	if _, err := other.Next(t.Context()); err != nil {
		t.Errorf("next of another watcher: %v", err)
	}
	go func() { _, err := other.Next(t.Context()); ended <- err }()
	go func() { ended <- s.Alive(t.Context(), dir+"alive", nil, c.TTL()) }()
	eventually(t, settle, func() string {
		if _, err := s.Get(t.Context(), dir+"alive"); err != nil {
			return err.Error()
		}
		return ""
	})
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, kv.ErrClosed) {
			t.Errorf("next, or alive, of a closed store: %v, want ErrClosed", err)
		}
	}
	if _, err := s.Get(t.Context(), dir+"x"); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("get from a closed store: %v, want ErrClosed", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	// What it kept alive is removed at the latest when its lease ends.
	b := c.Dial(t)
	eventually(t, c.TTL()+c.Grace(), func() string {
		if _, err := b.Get(t.Context(), dir+"alive"); err == nil {
			return "the key of a closed store is there"
		}
		return ""
	})
}
