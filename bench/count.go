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

// allLoads is what the server of the counted loads serves, over IPv4 and IPv6 if its address is any of IPv4.
var allLoads = cases.Load{Kind: "all", Size: 1}

// Count makes a world for a contestant and some cases with the same path, and returns for each case the
// nanoseconds that a transaction (or a datagram) takes, on the average of its transactions, in each
// round. Where the clock follows the processor's instructions, the result is a number of
// instructions. self is the program that generates the loads. after is called while that world still exists.
func Count(ctx context.Context, self string, entrant contestant.Contestant, counted []cases.Count, rounds int, after func() error) (_ [][]float64, retErr error) {
	env, err := report.ReadEnvironment()
	if err != nil {
		return nil, err
	}
	world := counted[0].Case
	world.Load, world.Family = allLoads, 4
	a, err := newArena(ctx, Config{Self: self}, entrant, env, world)
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
	all := make([][]float64, len(counted))
	for i, c := range counted {
		a.command = command(self, "run", c.Load, env.ClientCPU, a.reach(c.Family))
		for range 1 + rounds { // the first warms up
			m, err := a.run(ctx, 0, "--count", strconv.Itoa(c.Transactions))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name(), err)
			}
			all[i] = append(all[i], m["ns"])
		}
		all[i] = all[i][1:]
	}
	return all, after()
}
