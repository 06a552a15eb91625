// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/report"
)

// settled is how long a daemon, and the kernel, may take to do what they leave for later,
// such as to attach programs for good. In a guest whose clock skips idle time it takes none.
const settled = 5 * time.Second

// Count makes a world for a contestant and a case, and returns the nanoseconds that a
// transaction takes, or a datagram: the average of n of them, in each of some rounds.
// Where the clock goes by the processor's instructions, these are what is counted.
// self is the program that makes the loads.
func Count(ctx context.Context, self string, who contestant.Contestant, c cases.Case, n, rounds int) (_ []float64, retErr error) {
	env, err := report.ReadEnvironment()
	if err != nil {
		return nil, err
	}
	a, err := newArena(ctx, Config{Self: self}, who, env, c)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, a.close()) }()
	time.Sleep(settled)
	if p, ok := a.network.(contestant.Pauser); ok {
		if err := p.Pause(); err != nil {
			return nil, fmt.Errorf("pause the daemon of %s: %w", a.name, err)
		}
	}
	var counts []float64
	for range 1 + rounds { // the first warms up
		m, err := a.run(ctx, 0, "--count", strconv.Itoa(n))
		if err != nil {
			return nil, err
		}
		counts = append(counts, m["ns"])
	}
	return counts[1:], nil
}
