// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"maps"
	"sync"
	"time"
)

// Kinds of repairs.
const (
	RepairDevice    = "device"    // missing, down, or with another MAC or MTU
	RepairAddress   = "address"   // of a gateway or in a sandbox
	RepairRoute     = "route"     // in a sandbox
	RepairSysctl    = "sysctl"    // of a Fairlead device
	RepairEntry     = "entry"     // of a control-owned table
	RepairProgram   = "program"   // detached
	RepairRule      = "rule"      // that exempts a device from connection tracking
	RepairNamespace = "namespace" // owned by Fairlead, missing
)

// Repairs counts repairs by kind. Every kind is present, even if it is 0.
type Repairs map[string]uint64

func newRepairs() Repairs {
	r := make(Repairs)
	for _, kind := range []string{
		RepairDevice, RepairAddress, RepairRoute, RepairSysctl, RepairEntry, RepairProgram, RepairRule, RepairNamespace,
	} {
		r[kind] = 0
	}
	return r
}

func (r Repairs) add(o Repairs) {
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

// Stats are statistics of a Reconciler.
type Stats struct {
	Applies, Resyncs          uint64
	ApplyErrors, ResyncErrors uint64
	LastApply, LastResync     time.Duration     // durations
	Repairs                   map[string]uint64 // by kind
	LastError                 string            // of the last operation that failed
	GoneSandboxes             int               // whose namespace does not exist
}

// statistics is Stats with its own lock, so that a scrape does not wait for a pass.
type statistics struct {
	mu *sync.Mutex
	s  *Stats
}

func newStatistics() statistics {
	return statistics{mu: new(sync.Mutex), s: &Stats{Repairs: newRepairs()}}
}

func (s statistics) note(operation string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := uint64(0)
	if err != nil {
		failed, s.s.LastError = 1, err.Error()
	}
	if operation == "apply" {
		s.s.Applies++
		s.s.LastApply = took
		s.s.ApplyErrors += failed
		return
	}
	s.s.Resyncs++
	s.s.LastResync = took
	s.s.ResyncErrors += failed
}

func (s statistics) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.LastError = err.Error()
}

func (s statistics) repaired(r Repairs, gone int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, n := range r {
		s.s.Repairs[kind] += n
	}
	s.s.GoneSandboxes = gone
}

// Stats returns the statistics so far.
func (r *Reconciler) Stats() Stats {
	r.stats.mu.Lock()
	defer r.stats.mu.Unlock()
	s := *r.stats.s
	s.Repairs = maps.Clone(s.Repairs)
	return s
}
