// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/reconcile/device"
	"github.com/fairlead-net/fairlead/control/reconcile/netns"
	"github.com/fairlead-net/fairlead/control/reconcile/objects"
	"github.com/fairlead-net/fairlead/control/reconcile/programs"
	"github.com/fairlead-net/fairlead/control/reconcile/report"
	"github.com/fairlead-net/fairlead/control/reconcile/tables"
	"github.com/fairlead-net/fairlead/control/reconcile/turns"
	"github.com/fairlead-net/fairlead/control/reconcile/uplinks"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/station"
)

// Config configures a State.
type Config struct {
	Datapath      programs.Datapath
	Tables        tables.Set
	NL            *rtnl.Handle
	Log           *slog.Logger
	PinnedUplinks []string // by name
	StationsDir   string   // of the records of MACs that parents accept
	// Observe is called after each operation, "apply" or "resync", and Repaired after a repair.
	Observe  func(operation string, took time.Duration, err error)
	Repaired func(kind string, count int)
}

// State is what all passes share: the owners of the parts of the kernel's state, and the snapshot that was accepted last.
type State struct {
	Config

	Stations   *station.Filters
	Objects    *objects.Objects
	Namespaces *netns.Namespaces
	Programs   *programs.Attachments
	Entries    *tables.Tables
	Traffic    *tables.Traffic
	Flows      *tables.Flows
	Uplinks    *uplinks.Uplinks
	Stats      report.Statistics

	// Mu guards what follows, and all of the above that has no lock of its own.
	Mu      sync.Mutex
	Turns   *turns.Turns
	Snap    *desired.Snapshot // accepted last; nil before the first
	Missing map[string]bool   // endpoints of which a check deleted the device, for the next pass to create it
}

// NewState returns the State before the first snapshot.
func NewState(c Config) *State {
	t := c.Tables
	stations := station.New(c.NL, c.StationsDir)
	s := &State{
		Config:     c,
		Stations:   stations,
		Objects:    objects.New(device.NewKinds(c.NL, stations, c.Log)),
		Namespaces: netns.New(c.NL, c.Log),
		Programs:   programs.New(c.Datapath, c.Log),
		Entries:    tables.New(t),
		Traffic:    tables.NewTraffic(t.Traffic),
		Flows:      tables.NewFlows(t.Flows),
		Uplinks:    uplinks.New(c.NL, c.Log, uplinks.Tables{Uplinks: t.Uplinks, HostAddrs: t.HostAddrs, HostNets: t.HostNets}, c.PinnedUplinks),
		Stats:      report.NewStatistics(),
		Missing:    make(map[string]bool),
	}
	s.Turns = turns.New(&s.Mu)
	return s
}

// Started reports whether there was a first snapshot.
func (s *State) Started() bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.Snap != nil
}

// Unfinished reports whether a check left a device for the next pass to create.
func (s *State) Unfinished() bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return len(s.Missing) > 0
}

// Done records the result and duration of an operation.
func (s *State) Done(operation string, start time.Time, err error) {
	took := time.Since(start)
	s.Stats.Note(operation, took, err)
	s.Observe(operation, took, err)
}

// DoneRepairs records the result of a check that made repairs.
func (s *State) DoneRepairs(repairs report.Repairs, start time.Time, err error) {
	s.NoteRepairs(repairs)
	s.Done("resync", start, err)
}

// NoteRepairs records repairs.
func (s *State) NoteRepairs(repairs report.Repairs) {
	vanished := 0
	for _, b := range s.Objects.Sandboxes {
		if b.Vanished() {
			vanished++
		}
	}
	s.Stats.Repaired(repairs, vanished)
	for kind, n := range repairs {
		if n > 0 {
			s.Log.Warn("repaired what others broke", "kind", kind, "count", n)
			s.Repaired(kind, int(n))
		}
	}
}
