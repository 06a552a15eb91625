// SPDX-License-Identifier: Apache-2.0

package kvtest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/fairlead-net/fairlead/control/cluster/kv"
)

// testConcurrent has many writers change the same keys.
func testConcurrent(t *testing.T, c Cluster, dir string) {
	clients := []*Client{c.Dial(t), c.Dial(t)}
	t.Run("one of many creates", func(t *testing.T) {
		var wg sync.WaitGroup
		won := make(chan int, 32)
		for i := range cap(won) {
			wg.Go(func() {
				err := clients[i%2].Commit(t.Context(), []kv.Cond{kv.If(dir+"one", kv.Rev{})}, kv.Put(dir+"one", []byte(strconv.Itoa(i))))
				if err == nil {
					won <- i
				} else if !errors.Is(err, kv.ErrConflict) {
					t.Errorf("create %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d of %d creates of one key succeeded", len(won), cap(won))
		}
		if e, err := clients[0].Get(t.Context(), dir+"one"); err != nil || string(e.Value) != strconv.Itoa(<-won) {
			t.Errorf("the key holds %q, %v: not the winner's value", e.Value, err)
		}
	})
	t.Run("no lost increment", func(t *testing.T) {
		const writers, increments = 6, 15
		put(t, clients[0], map[string]string{dir + "n": "0", dir + "m/n": "0"})
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for range increments {
					increment(t, clients[i%2], dir+"n", dir+"m/n")
				}
			})
		}
		wg.Wait()
		for _, key := range []string{dir + "n", dir + "m/n"} {
			if e, err := clients[0].Get(t.Context(), key); err != nil || string(e.Value) != strconv.Itoa(writers*increments) {
				t.Errorf("%s is %s after %d increments: %v", key, e.Value, writers*increments, err)
			}
		}
	})
}

// increment adds 1 to the numbers under all keys in one commit.
func increment(t *testing.T, s kv.Store, keys ...string) {
	for {
		var conds []kv.Cond
		var ops []kv.Op
		for _, key := range keys {
			e, err := s.Get(t.Context(), key)
			if err != nil {
				t.Errorf("get %s: %v", key, err)
				return
			}
			n, err := strconv.Atoi(string(e.Value))
			if err != nil {
				t.Error(err)
				return
			}
			conds = append(conds, kv.If(key, e.Rev))
			ops = append(ops, kv.Put(key, []byte(strconv.Itoa(n+1))))
		}
		switch err := s.Commit(t.Context(), conds, ops...); {
		case err == nil:
			return
		case !errors.Is(err, kv.ErrConflict):
			t.Errorf("increment: %v", err)
			return
		}
	}
}

// testRaces has two nodes claim the same name, number and address at the same moment, as two
// hosts do that create networks and sandboxes.
func testRaces(t *testing.T, c Cluster, dir string) {
	rounds := 100
	if *long {
		rounds = 1000
	}
	nodes := []*Client{c.Dial(t), c.Dial(t)}
	put(t, nodes[0], map[string]string{dir + "ip/shard": ""})
	won := [2]int{}
	for round := range rounds {
		start := make(chan struct{})
		var errs [2]error
		var wg sync.WaitGroup
		for i, node := range nodes {
			// Each claims the name by its absence and the address by the revision of its shard.
			shard := rev(t, node, dir+"ip/shard")
			wg.Go(func() {
				<-start
				id := fmt.Sprintf("%d-%d", round, i)
				errs[i] = node.Commit(t.Context(),
					[]kv.Cond{kv.If(fmt.Sprintf("%sname/n%d", dir, round), kv.Rev{}), kv.If(fmt.Sprintf("%svni/%d", dir, round), kv.Rev{}), kv.If(dir+"ip/shard", shard)},
					kv.Put(fmt.Sprintf("%sname/n%d", dir, round), []byte(id)), kv.Put(fmt.Sprintf("%svni/%d", dir, round), []byte(id)),
					kv.Put(dir+"net/"+id, nil), kv.Put(dir+"ip/shard", []byte(id)))
			})
		}
		close(start)
		wg.Wait()
		for i := range nodes {
			if errs[i] == nil {
				won[i]++
			} else if !errors.Is(errs[i], kv.ErrConflict) {
				t.Fatalf("round %d: node %d: %v", round, i, errs[i])
			}
		}
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: both nodes won, or none: %v, %v", round, errs[0], errs[1])
		}
	}
	t.Logf("%d races: %d to %d", rounds, won[0], won[1])
	if nets := list(t, nodes[0], dir+"net/"); len(nets) != rounds {
		t.Errorf("%d networks after %d races", len(nets), rounds)
	}
	names, numbers := list(t, nodes[0], dir+"name/"), list(t, nodes[1], dir+"vni/")
	if len(names) != rounds || len(numbers) != rounds {
		t.Errorf("%d names and %d numbers after %d races", len(names), len(numbers), rounds)
	}
	for _, e := range names {
		if _, err := nodes[0].Get(t.Context(), dir+"net/"+string(e.Value)); err != nil {
			t.Errorf("%s names a network of the loser: %v", e.Key, err)
		}
	}
}
