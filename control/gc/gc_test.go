// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/maps"
)

// fakeFlows has flows that expire at a time; their keys are all alike.
type fakeFlows struct {
	expired int
	removed int
	err     error
	forced  bool
}

func (f *fakeFlows) Expired(uint32) ([]maps.FlowKey, error) {
	return make([]maps.FlowKey, f.expired), f.err
}

func (f *fakeFlows) Remove(keys []maps.FlowKey, force bool) (int, error) {
	f.forced = f.forced || force
	f.removed += len(keys)
	f.expired -= len(keys)
	return len(keys), nil
}

func TestCollect(t *testing.T) {
	f := &fakeFlows{expired: 3}
	c := New(Config{Flows: f})
	c.Collect()
	if f.removed != 3 || f.forced {
		t.Errorf("removed %d (forced: %v), want 3 and not forced", f.removed, f.forced)
	}
	f.err = errors.New("no")
	c.Collect()
	if s := c.Stats(); s.Walks != 2 || s.Errors != 1 || s.Removed != 3 {
		t.Errorf("statistics are %+v", s)
	}
}

func TestNext(t *testing.T) {
	tests := map[string]struct {
		interval time.Duration
		expired  int
		took     time.Duration
		want     time.Duration
	}{
		"much expired":               {8 * time.Second, many, 0, 4 * time.Second},
		"some expired":               {8 * time.Second, 1, 0, 8 * time.Second},
		"nothing expired":            {8 * time.Second, 0, 0, 12 * time.Second},
		"not below the minimum":      {time.Second, many, 0, minInterval},
		"not above the maximum":      {maxInterval, 0, 0, maxInterval},
		"a walk that costs":          {time.Second, many, 100 * time.Millisecond, 5 * time.Second},
		"a walk that costs too much": {time.Second, many, 10 * time.Second, maxInterval},
	}
	for name, tt := range tests {
		if got := next(tt.interval, tt.expired, tt.took); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f := &fakeFlows{expired: 1}
		c := New(Config{Flows: f})
		if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("run ended with %v", err)
		}
		if s := c.Stats(); s.Walks < 3 || f.removed != 1 {
			t.Errorf("in a minute: %+v", s)
		}
	})
}
