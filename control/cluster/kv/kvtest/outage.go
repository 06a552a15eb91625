// SPDX-License-Identifier: Apache-2.0

package kvtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// alive keeps a key alive until the test ends, or until the function that it returns is called.
func alive(t *testing.T, s kv.Store, key, value string, ttl time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Alive(ctx, key, []byte(value), ttl) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, kv.ErrClosed) {
			t.Errorf("alive returned %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// has waits until a key has a value, or does not exist if that is "".
func has(t *testing.T, s kv.Store, key, value string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() string {
		e, err := s.Get(t.Context(), key)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err.Error()
		}
		if string(e.Value) != value {
			return fmt.Sprintf("%s is %q, want %q", key, e.Value, value)
		}
		return ""
	})
}

func testAlive(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	key := dir + "node"
	f := follow(t, b, dir, 0)
	ttl := c.TTL() + 4*time.Second // renewed in time on a busy machine too
	stop := alive(t, a, key, "first", ttl)
	has(t, b, key, "first", settle)
	first := rev(t, b, key)
	time.Sleep(ttl * 3 / 2)
	has(t, b, key, "first", 0)
	if rev(t, b, key) != first {
		t.Error("a lease that nothing disturbed was not renewed, but replaced")
	}
	commit(t, b, nil, kv.Delete(key))
	has(t, b, key, "first", ttl+settle) // noticed and put back
	stop()
	has(t, b, key, "", settle) // removed at once
	f.equals(t, b, settle)

	// Another process of the same node replaces the key that the former left behind.
	crashed := c.Dial(t)
	alive(t, crashed, key, "crashed", c.TTL())
	has(t, b, key, "crashed", settle)
	crashed.Cut(true)
	stop = alive(t, a, key, "second", c.TTL())
	has(t, b, key, "second", settle)
	time.Sleep(c.TTL() + c.Grace())
	has(t, b, key, "second", settle) // the former's lease has ended, and took nothing with it
	stop()
	has(t, b, key, "", settle)

	// A process that vanishes is noticed when its lease ends.
	vanishing := c.Dial(t)
	alive(t, vanishing, key, "vanishing", c.TTL())
	has(t, b, key, "vanishing", settle)
	vanishing.Cut(true)
	has(t, b, key, "", c.TTL()+c.Grace())
	f.equals(t, b, settle)
	vanishing.Cut(false)
	has(t, b, key, "vanishing", settle+c.TTL())
}

// testConnectionCut disconnects one of two clients while the other writes.
func testConnectionCut(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	put(t, b, map[string]string{dir + "kept": "1", dir + "changed": "1", dir + "deleted": "1"})
	f := follow(t, a, dir, 0)
	f.begun(t)
	a.Cut(true)
	put(t, b, map[string]string{dir + "changed": "2", dir + "new": "1"})
	commit(t, b, nil, kv.Delete(dir+"deleted"), kv.Put(dir+"short-lived", nil))
	commit(t, b, nil, kv.Delete(dir+"short-lived"))
	refusing(t, a, dir)
	a.Cut(false)
	f.equals(t, b, settle)
	answering(t, a, dir)
	commit(t, b, nil, kv.Put(dir+"changed", []byte("3")))
	f.equals(t, a, settle)
}

// refusing waits until calls fail at once, and checks how.
func refusing(t *testing.T, s kv.Store, dir string) {
	t.Helper()
	begin := time.Now()
	_, err := s.Get(t.Context(), dir+"x")
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("get without a connection: %v, want ErrUnavailable", err)
	}
	if took := time.Since(begin); took > settle {
		t.Errorf("the first call without a connection took %v", took)
	}
	eventually(t, settle, func() string {
		if h := s.Health(); h.Reachable || h.Err == nil {
			return fmt.Sprintf("the health of a store that does not answer: %+v", h)
		}
		return ""
	})
	begin = time.Now()
	_, err1 := s.Get(t.Context(), dir+"x")
	_, err2 := s.List(t.Context(), dir)
	err3 := s.Commit(t.Context(), nil, kv.Put(dir+"not-written", nil))
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("three calls without a connection took %v, want that they fail at once", took)
	}
	h := s.Health()
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), h.Store) || strings.Contains(err.Error(), "\n") {
			t.Errorf("without a connection: %v; want ErrUnavailable in one line, with the store's name", err)
		}
	}
	if h.Store == "" || h.Err == nil || time.Since(h.Since) > time.Minute {
		t.Errorf("health without a connection: %+v", h)
	}
	t.Logf("refusal: %v", err3)
}

// answering waits until the store answers, and checks that nothing of a refused call was done.
func answering(t *testing.T, s kv.Store, dir string) {
	t.Helper()
	has(t, s, dir+"not-written", "", settle)
	if h := s.Health(); !h.Reachable || h.Err != nil || time.Since(h.Since) > 2*settle {
		t.Errorf("health after the outage: %+v", h)
	}
}

// testCompaction removes what a watcher has missed before it is connected again.
func testCompaction(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	put(t, b, map[string]string{dir + "kept": "1", dir + "deleted": "1"})
	f := follow(t, a, dir, 0)
	f.begun(t)
	a.Cut(true)
	commit(t, b, nil, kv.Delete(dir+"deleted"), kv.Put(dir+"new", []byte("1")))
	for range 50 {
		put(t, b, map[string]string{dir + "busy": "x"})
	}
	c.Compact(t)
	put(t, b, map[string]string{dir + "after": "1"})
	a.Cut(false)
	f.equals(t, b, settle)
}

// testOutage kills the server for longer than a lease, starts it with its data, and expects
// everybody to go on.
func testOutage(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	want := map[string]string{dir + "node": "not leased"}
	for i := range 100 {
		want[fmt.Sprintf("%sk/%d", dir, i)] = "1"
	}
	put(t, a, want)
	alive(t, a, dir+"alive/a", "a", c.TTL())
	alive(t, b, dir+"alive/b", "b", c.TTL())
	has(t, b, dir+"alive/a", "a", settle)
	has(t, a, dir+"alive/b", "b", settle)
	before := list(t, a, dir+"k/")
	f, all := follow(t, a, dir+"k/", 0), follow(t, b, dir, 0)
	f.begun(t)
	c.Stop(t)
	stopped := time.Now()
	refusing(t, a, dir)
	refusing(t, b, dir)
	// A client and a watch that begin during the outage.
	late := c.Dial(t)
	g := follow(t, late, dir+"k/", 0)
	refusing(t, late, dir)
	outage := 2*c.TTL() + c.Grace()
	if *long {
		outage = max(outage, 60*time.Second)
	}
	time.Sleep(outage - time.Since(stopped))
	if diff := f.lacks(before); diff != "" {
		t.Errorf("during the outage: %s", diff)
	}
	c.Start(t)
	back := up(t, a)
	begin := time.Now()
	for _, s := range []*Client{a, b, late} {
		answering(t, s, dir)
	}
	g.begun(t)
	if diff := f.lacks(before) + g.lacks(before); diff != "" {
		t.Errorf("after the outage: %s", diff)
	}
	commit(t, b, nil, kv.Delete(dir+"k/1"), kv.Put(dir+"k/2", []byte("2")), kv.Put(dir+"k/new", nil))
	f.equals(t, a, settle)
	g.equals(t, a, settle)
	t.Logf("the store answered %v after its start; all clients and watches %v later", back, time.Since(begin))

	has(t, a, dir+"alive/a", "a", settle+c.TTL())
	has(t, a, dir+"alive/b", "b", settle+c.TTL())
	// A lease that the server brought back may expire only now, if its client believed it lost: the key
	// is missing for no longer than it takes to put it back.
	time.Sleep(c.TTL() + c.Grace())
	for _, key := range []string{"a", "b"} {
		has(t, a, dir+"alive/"+key, key, settle)
	}
	has(t, a, dir+"node", "not leased", 0)
	all.equals(t, a, settle)
}

// up waits until a store that was started answers, which takes a server's election of itself.
func up(t *testing.T, s kv.Store) time.Duration {
	t.Helper()
	begin := time.Now()
	eventually(t, time.Minute, func() string {
		if !s.Health().Reachable {
			return fmt.Sprintf("the store does not answer after its start: %v", s.Health().Err)
		}
		return ""
	})
	return time.Since(begin)
}

// testWiped replaces the server by an empty one. Its revisions begin at the beginning again.
func testWiped(t *testing.T, c Cluster, dir string) {
	a, b := c.Dial(t), c.Dial(t)
	old := map[string]string{}
	for i := range 20 {
		old[fmt.Sprintf("%sk/%d", dir, i)] = "old"
	}
	put(t, a, old)
	stale := rev(t, a, dir+"k/1")
	alive(t, a, dir+"alive", "a", c.TTL())
	f := follow(t, b, dir+"k/", 0)
	f.begun(t)
	has(t, a, dir+"alive", "a", settle)
	_, resets := f.counts()
	c.Wipe(t)
	up(t, a)
	up(t, b)
	eventually(t, 30*time.Second, func() string {
		if _, n := f.counts(); n <= resets {
			return "the watcher of a store that was wiped was not reset"
		}
		return ""
	})
	// b noticed; a may still be about to.
	eventually(t, 30*time.Second, func() string {
		got, err := a.List(t.Context(), dir+"k/")
		if err != nil || len(got) != 0 {
			return fmt.Sprintf("list the store that was wiped: %v, %v", values(got), err)
		}
		return ""
	})
	f.equals(t, a, settle)
	if err := a.Commit(t.Context(), []kv.Cond{kv.If(dir+"k/1", stale)}, kv.Put(dir+"k/1", nil)); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("commit with a revision of the wiped store: %v, want ErrConflict", err)
	}
	has(t, a, dir+"alive", "a", settle+c.TTL())
	commit(t, a, nil, kv.Put(dir+"k/new", []byte("new")))
	f.equals(t, b, settle)
	if got := values(list(t, b, dir+"k/")); len(got) != 1 {
		t.Errorf("the wiped store holds %v, want the new key only", got)
	}
}
