// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/maps"
)

// fakeFlows has a number of expired flows, all with the same key.
type fakeFlows struct {
	expired int
	removed int
	err     error
	forced  bool
	counted int
}

func (f *fakeFlows) Recount() error {
	f.counted++
	return nil
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
	if f.counted != 1 {
		t.Errorf("the flows were counted %d times, want once", f.counted)
	}
	if s := c.Stats(); s.Walks != 2 || s.Errors != 1 || s.Removed != 3 {
		t.Errorf("statistics are %+v", s)
	}
}

// A full table is logged at most once a minute, with the number of drops since.
func TestWarnsOfFullTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		refused := uint64(7) // before this daemon
		c := New(Config{Flows: &fakeFlows{}, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Refused: func() (uint64, error) { return refused, nil }})
		for _, step := range []struct {
			refused uint64
			want    string // "" if nothing is logged
		}{{0, ""}, {5, "refused=5"}, {100, ""}, {0, ""}} {
			refused += step.refused
			c.Collect()
			if got := log.String(); (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
				t.Errorf("%d refused: the log is %q, want %q", step.refused, got, step.want)
			}
			log.Reset()
			time.Sleep(10 * time.Second)
		}
		time.Sleep(warnInterval)
		c.Collect()
		if got := log.String(); !strings.Contains(got, "refused=100") || !strings.Contains(got, "--ct-max") {
			t.Errorf("a minute later the log is %q", got)
		}
	})
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
