// SPDX-License-Identifier: Apache-2.0

// Package report counts repairs, records errors, and keeps the Statistics of the reconciler.
package report

import (
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
)

// Kinds of repairs.
const (
	Device    = "device"    // missing, down, or with another MAC or MTU
	Address   = "address"   // of a gateway or in a sandbox
	Route     = "route"     // in a sandbox
	Sysctl    = "sysctl"    // of a Fairlead device
	Entry     = "entry"     // of a control-owned table
	Program   = "program"   // detached
	Rule      = "rule"      // that exempts a device from connection tracking
	Namespace = "namespace" // owned by Fairlead, missing
	File      = "file"      // of a sandbox, such as its /etc/hosts
)

// Repairs counts repairs by kind. Every kind is present, even if it is 0.
type Repairs map[string]uint64

// NewRepairs returns counts of 0.
func NewRepairs() Repairs {
	r := make(Repairs)
	for _, kind := range []string{
		Device, Address, Route, Sysctl, Entry, Program, Rule, Namespace, File,
	} {
		r[kind] = 0
	}
	return r
}

// Add adds the counts of o.
func (r Repairs) Add(o Repairs) {
	for kind, n := range o {
		r[kind] += n
	}
}

// Total returns the number of repairs of all kinds.
func (r Repairs) Total() uint64 {
	var n uint64
	for _, v := range r {
		n += v
	}
	return n
}

// Stats are what a reconciler did so far.
type Stats struct {
	Applies, Resyncs          uint64
	ApplyErrors, ResyncErrors uint64
	LastApply, LastResync     time.Duration     // durations
	Repairs                   map[string]uint64 // by kind
	LastError                 string            // what is wrong now; "" if nothing is known to be
	GoneSandboxes             int               // whose namespace does not exist
}

// Statistics is Stats with its own lock, so that a scrape does not wait for a pass.
type Statistics struct {
	mu *sync.Mutex
	s  *Stats
}

func NewStatistics() Statistics {
	return Statistics{mu: new(sync.Mutex), s: &Stats{Repairs: NewRepairs()}}
}

// Note records an operation. An error of a change is returned to its caller, and the change is reverted: what is wrong
// then is found by the next check.
func (s Statistics) Note(operation string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := uint64(0)
	if err != nil {
		failed = 1
	}
	if operation == "apply" {
		s.s.Applies++
		s.s.LastApply = took
		s.s.ApplyErrors += failed
		return
	}
	if err != nil {
		s.s.LastError = err.Error()
	}
	s.s.Resyncs++
	s.s.LastResync = took
	s.s.ResyncErrors += failed
}

// Fail records an error that does not belong to an operation.
func (s Statistics) Fail(err error) { s.Now(err.Error()) }

// Now records what a check found to be wrong; "" if nothing is.
func (s Statistics) Now(wrong string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.LastError = wrong
}

func (s Statistics) Repaired(r Repairs, vanished int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, n := range r {
		s.s.Repairs[kind] += n
	}
	s.s.GoneSandboxes = vanished
}

// Get returns the statistics so far.
func (s Statistics) Get() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := *s.s
	all.Repairs = maps.Clone(all.Repairs)
	return all
}

// Report is what one pass reports.
type Report struct {
	Repair  bool // no caller waits: errors are logged and repairs counted
	Repairs Repairs
	Errs    []error // for the caller

	log   *slog.Logger
	stats Statistics
}

// New returns a Report without content.
func New(log *slog.Logger, stats Statistics) Report {
	return Report{Repairs: NewRepairs(), log: log, stats: stats}
}

// Count counts repairs.
func (r *Report) Count(kind string, n int) {
	if r.Repair && n > 0 {
		r.Repairs[kind] += uint64(n)
	}
}

// CountChanges counts the changes that were made to devices.
func (r *Report) CountChanges(ch configure.Changes) {
	r.Count(Device, ch.Devices)
	r.Count(Address, ch.Addresses)
	r.Count(Route, ch.Routes)
	r.Count(Sysctl, ch.Sysctls)
}

// Fail records an error.
func (r *Report) Fail(err error) {
	if err != nil {
		r.Errs = append(r.Errs, err)
	}
}

// SetErr records an object's error (nil clears it). During repairs a new error is logged;
// otherwise it is returned to the caller.
func (r *Report) SetErr(lastErr *string, what, id string, err error) {
	if err == nil {
		*lastErr = ""
		return
	}
	err = fmt.Errorf("%s %s: %w", what, model.ShortID(id), err)
	if !r.Repair {
		r.Fail(err)
	} else if *lastErr != err.Error() {
		r.log.Error("cannot repair", "err", err)
		r.stats.Fail(err)
	}
	*lastErr = err.Error()
}
