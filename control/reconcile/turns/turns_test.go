// SPDX-License-Identifier: Apache-2.0

package turns

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// A pass gives up the lock while it waits for the kernel, except for one that keeps it, and has its turns until it ends.
func TestHold(t *testing.T) {
	for _, locked := range []bool{false, true} {
		var mu sync.Mutex
		turns := New(&mu)
		mu.Lock()
		if !turns.Take("a") || turns.Take("a") || !turns.Take(OfHost) {
			t.Error("a turn is not taken once")
		}
		before := turns.Changes()
		hold := turns.Begin("a", OfHost)
		hold.Locked = locked
		hold.Outside(func() {
			if free := mu.TryLock(); free == locked {
				t.Errorf("the lock is free: %t, want %t", free, !locked)
			} else if free {
				mu.Unlock()
			}
		})
		if changes := turns.Changes() - before; (changes == 1) != locked || changes == 0 {
			t.Errorf("%d changes of a pass, which keeps the lock: %t", changes, locked)
		}
		if turns.Free("a") || turns.Free(OfHost) || !turns.Free("b") {
			t.Error("others may work on what a pass works on, or not on the rest")
		}
		hold.End()
		hold.End() // has none any more
		if !turns.Idle() {
			t.Error("turns do not end")
		}
		mu.Unlock()
	}
}

// What a failed verb was about is not free before the verb that reverts it has its turn.
func TestHoldReverted(t *testing.T) {
	var mu sync.Mutex
	turns := New(&mu)
	mu.Lock()
	defer mu.Unlock()
	verb := func() *Hold {
		turns.Queue([]string{"a"})
		if err := turns.Wait(t.Context(), []string{"a"}); err != nil {
			t.Fatal(err)
		}
		return turns.Begin("a")
	}
	verb().EndReverted()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns.WaitFree(ctx, "a"); !errors.Is(err, context.Canceled) || !turns.Reverting() {
		t.Errorf("a check gets the turn before the revert: %v", err)
	}
	verb().End()
	if !turns.Idle() || turns.Reverting() || !turns.Take("a") {
		t.Error("not free after the revert")
	}
}
