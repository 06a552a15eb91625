// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/cluster/kv/memory"
	"github.com/fairlead-net/fairlead/control/model"
)

// A removal waits until every other node that lives has confirmed it: for no longer than a few seconds, and not
// while the store does not answer.
func TestWithdrawn(t *testing.T) {
	ctx := t.Context()
	s := memory.New()
	a, b := newHost(t, s, "h1").registered(), newHost(t, s, "h2").registered()
	n, err := a.CreateNetwork(ctx, model.NetworkSpec{Name: "web", Driver: model.DriverOverlay})
	if err != nil {
		t.Fatal(err)
	}
	withdrawn := func(what string, least, most time.Duration, members ...string) {
		t.Helper()
		began := time.Now()
		a.cluster.Withdrawn(ctx, n.ID, members)
		if took := time.Since(began); took < least || took > most {
			t.Errorf("%s: waited %v, want %v to %v", what, took, least, most)
		}
	}
	withdrawn("no other node", 0, 50*time.Millisecond, "one")
	a.others = []string{b.cluster.Self().ID}
	b.cluster.Confirm(n.ID, []string{"one", "two"})
	withdrawn("confirmed before", 0, time.Second, "two", "one")
	go func() {
		time.Sleep(400 * time.Millisecond)
		b.cluster.Confirm(n.ID, []string{"three"})
	}()
	withdrawn("confirmed meanwhile", 400*time.Millisecond, 2*time.Second, "three")
	withdrawn("not confirmed", 2900*time.Millisecond, 5*time.Second, "three", "four")
	b.cluster.Confirm(n.ID, nil)
	go func() {
		time.Sleep(time.Second)
		s.Stop()
	}()
	withdrawn("the store goes down", 900*time.Millisecond, 2500*time.Millisecond, "four")
	withdrawn("the store is down", 0, 50*time.Millisecond, "five")
}
