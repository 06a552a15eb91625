// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"

	"github.com/fairlead-net/fairlead/bench/kernel"
	"github.com/fairlead-net/fairlead/bench/report"
)

// counting measures what Fairlead's programs cost in the world of a case.
type counting struct {
	pins   string
	before map[string]kernel.Runs
	stop   io.Closer
}

// startCounting starts counting. It returns nil if Fairlead does not take part in the case.
func startCounting(entries []entry) (*counting, error) {
	for _, e := range entries {
		a, ok := e.subject.(*arena)
		if !ok || e.name != report.Subject {
			continue
		}
		network, ok := a.network.(interface{ Pins() string })
		if !ok {
			return nil, fmt.Errorf("%s does not say where its programs are", e.name)
		}
		before, err := kernel.ReadRuns(network.Pins())
		if err != nil {
			return nil, err
		}
		stop, err := kernel.CountRuns()
		return &counting{network.Pins(), before, stop}, err
	}
	return nil, nil
}

// costs stops counting and returns the cost of each program that has run.
func (c *counting) costs() (map[string]report.Cost, error) {
	if c == nil {
		return nil, nil
	}
	after, err := kernel.ReadRuns(c.pins)
	if err = errors.Join(err, c.stop.Close()); err != nil {
		return nil, err
	}
	costs := make(map[string]report.Cost)
	for name, now := range after {
		if n := now.Count - c.before[name].Count; n > 0 {
			costs[name] = report.Cost{Runs: n, Nanoseconds: float64(now.Took-c.before[name].Took) / float64(n)}
		}
	}
	return costs, nil
}
