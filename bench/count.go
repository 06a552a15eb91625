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

// settled is how long a daemon, and the kernel, may take for deferred work, such as attaching
// programs permanently. In a guest whose clock skips idle time it takes no real time.
const settled = 5 * time.Second

// Count makes a world for a contestant and a case, and returns for each round the nanoseconds
// that a transaction (or a datagram) takes, on the average of n. Where the clock follows the
// processor's instructions, the result is a number of instructions. self is the program that
// generates the loads.
func Count(ctx context.Context, self string, entrant contestant.Contestant, c cases.Case, n, rounds int) (_ []float64, retErr error) {
	env, err := report.ReadEnvironment()
	if err != nil {
		return nil, err
	}
	a, err := newArena(ctx, Config{Self: self}, entrant, env, c)
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
