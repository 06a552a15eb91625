// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// An error goes to the caller of a verb. During repairs it is logged when it is new, and repairs
// are counted.
func TestReport(t *testing.T) {
	for _, repair := range []bool{false, true} {
		var log bytes.Buffer
		stats := NewStatistics()
		r := New(slog.New(slog.NewTextHandler(&log, nil)), stats)
		r.Repair = repair
		last := ""
		for range 2 {
			r.SetErr(&last, "network", "0123", errors.New("no"))
		}
		if last != "network 0123: no" {
			t.Errorf("recorded %q", last)
		}
		r.SetErr(&last, "network", "0123", nil)
		r.Fail(nil)
		r.Count(Entry, 2)
		r.CountChanges(configure.Changes{Devices: 1, Routes: 3})
		errs, logged, repairs := 2, 0, uint64(0)
		if repair {
			errs, logged, repairs = 0, 1, 6
		}
		if len(r.Errs) != errs || strings.Count(log.String(), "\n") != logged || r.Repairs.Total() != repairs || last != "" {
			t.Errorf("repair %t: errors %v, repairs %v, last %q; logged:\n%s", repair, r.Errs, r.Repairs, last, &log)
		}
		if got := stats.Get().LastError != ""; got != repair {
			t.Errorf("repair %t: the statistics have an error: %t", repair, got)
		}
	}
}

// Statistics are a copy, with every kind of repair.
func TestStatistics(t *testing.T) {
	s := NewStatistics()
	s.Note("apply", time.Second, nil)
	s.Note("resync", time.Minute, errors.New("no"))
	s.Repaired(Repairs{Device: 2}, 3)
	got := s.Get()
	if got.Applies != 1 || got.ApplyErrors != 0 || got.LastApply != time.Second || got.Resyncs != 1 || got.ResyncErrors != 1 ||
		got.LastResync != time.Minute || got.LastError != "no" || got.GoneSandboxes != 3 {
		t.Errorf("got %+v", got)
	}
	if n, ok := got.Repairs[Route]; got.Repairs[Device] != 2 || n != 0 || !ok {
		t.Errorf("repairs are %v", got.Repairs)
	}
	got.Repairs[Device] = 9
	if s.Get().Repairs[Device] != 2 {
		t.Error("the copy is shared")
	}
}
