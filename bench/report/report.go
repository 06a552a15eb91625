// SPDX-License-Identifier: Apache-2.0

// Package report holds the results of a run, round by round, and evaluates them: medians of
// paired ratios, their range, wins, and whether the rounds show a difference at all.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/fairlead-net/fairlead/bench/load"
)

// Run is everything a run measured, as it is written to a file.
type Run struct {
	Began       time.Time
	Took        string
	Environment Environment
	Command     []string
	Seconds     float64           // of each measurement
	Rounds      int               // as requested
	Contestants map[string]string // name -> version, or why it is absent
	Order       []string          // of the contestants in the first round
	Cases       []Case
}

// Case holds the rounds of one case.
type Case struct {
	Name   string
	Absent map[string]string `json:",omitempty"` // contestant -> why it does not have such a path
	Failed map[string]string `json:",omitempty"` // contestant -> why its world could not be made
	// Costs are the costs of Fairlead's programs, by name, counted by the kernel in the
	// warm-up. Counting adds clock reads to each run.
	Costs  map[string]Cost `json:",omitempty"`
	Rounds []Round
}

// Cost is what a program costs, averaged over its runs.
type Cost struct {
	Runs        uint64
	Nanoseconds float64 // of one run
}

// Round holds what each contestant measured in one turn, by name.
type Round struct {
	Measured map[string]load.Measures
	Failed   map[string]string `json:",omitempty"` // contestant -> error
}

// WriteJSON writes the run with its raw rounds.
func (r *Run) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// Read reads a run that WriteJSON wrote.
func Read(rd io.Reader) (*Run, error) {
	r := new(Run)
	if err := json.NewDecoder(rd).Decode(r); err != nil {
		return nil, fmt.Errorf("read a run: %w", err)
	}
	return r, nil
}
