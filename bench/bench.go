// SPDX-License-Identifier: Apache-2.0

// Package bench runs the benchmarks: every contestant in turn, round after
// round, the order rotated, each in a world of its own that is made anew for
// every case.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/report"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// Config says what to run.
type Config struct {
	Self        string                  // required: the program that makes the loads; static
	Cases       []cases.Case            // required
	Contestants []contestant.Contestant // required
	Rounds      int                     // required; a warm-up before them is not counted
	Duration    time.Duration           // required: of one measurement
	Progress    func(what string)       // called before each measurement; required
}

// Measurements is how many calls of Progress to expect.
func (c Config) Measurements() int {
	return len(c.Cases) * len(c.Contestants) * (c.Rounds + 1)
}

// Run runs everything. When ctx ends it removes what it made and returns what
// was measured until then, with the error.
func Run(ctx context.Context, cfg Config) (*report.Run, error) {
	if err := topology.Sweep(); err != nil {
		return nil, err
	}
	env, err := report.ReadEnvironment()
	if err != nil {
		return nil, err
	}
	r := &report.Run{
		Began: time.Now().UTC(), Environment: env, Command: os.Args,
		Seconds: cfg.Duration.Seconds(), Rounds: cfg.Rounds, Contestants: make(map[string]string),
	}
	present, err := versions(ctx, cfg, r)
	if err != nil {
		return nil, err
	}
	for _, c := range cfg.Cases {
		result, err := runCase(ctx, cfg, present, env, c)
		r.Took = time.Since(r.Began).Round(time.Second).String()
		if err != nil {
			return r, err
		}
		r.Cases = append(r.Cases, *result)
	}
	return r, nil
}

// versions asks who is there.
func versions(ctx context.Context, cfg Config, r *report.Run) (present []contestant.Contestant, err error) {
	for _, c := range cfg.Contestants {
		r.Order = append(r.Order, c.Name())
		version, err := c.Version(ctx)
		var absent contestant.Absent
		switch {
		case errors.As(err, &absent):
			version = absent.Error()
		case err != nil:
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		default:
			present = append(present, c)
		}
		r.Contestants[c.Name()] = version
	}
	return present, nil
}

// runCase runs all rounds of a case.
func runCase(ctx context.Context, cfg Config, present []contestant.Contestant, env report.Environment, c cases.Case) (_ *report.Case, retErr error) {
	result := &report.Case{Name: c.Name(), Absent: make(map[string]string), Failed: make(map[string]string)}
	var able []contestant.Contestant
	for _, who := range present {
		if reason := who.Lacks(c.Path); reason != "" {
			result.Absent[who.Name()] = reason
			continue
		}
		able = append(able, who)
	}
	arenas, failed := openArenas(ctx, cfg, able, env, c)
	defer func() { retErr = errors.Join(retErr, closeArenas(arenas)) }()
	for name, err := range failed {
		result.Failed[name] = err.Error()
	}
	for round := range cfg.Rounds + 1 {
		got := runRound(ctx, cfg, arenas, c, round)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if round > 0 { // the first is the warm-up
			result.Rounds = append(result.Rounds, got)
		}
	}
	return result, nil
}

// openArenas makes the worlds of a case, all at once: this takes much longer
// than it works.
func openArenas(ctx context.Context, cfg Config, able []contestant.Contestant, env report.Environment, c cases.Case) (arenas []*arena, failed map[string]error) {
	made, errs := make([]*arena, len(able)), make([]error, len(able))
	var wg sync.WaitGroup
	for i, who := range able {
		wg.Go(func() { made[i], errs[i] = newArena(ctx, cfg, who, env, c) })
	}
	wg.Wait()
	failed = make(map[string]error)
	for i, who := range able {
		if errs[i] != nil {
			failed[who.Name()] = errs[i]
		} else {
			arenas = append(arenas, made[i])
		}
	}
	return arenas, failed
}

// closeArenas removes the worlds.
func closeArenas(arenas []*arena) error {
	errs := make([]error, len(arenas))
	var wg sync.WaitGroup
	for i, a := range arenas {
		wg.Go(func() { errs[i] = a.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runRound lets each contestant measure once. The one that begins is another
// in each round.
func runRound(ctx context.Context, cfg Config, arenas []*arena, c cases.Case, round int) report.Round {
	got := report.Round{Measured: make(map[string]load.Measures), Failed: make(map[string]string)}
	for i := range arenas {
		a := arenas[(i+round)%len(arenas)]
		cfg.Progress(fmt.Sprintf("%s %s", c.Name(), a.name))
		m, err := a.measure(ctx, cfg.Duration)
		if err != nil {
			got.Failed[a.name] = err.Error()
			continue
		}
		got.Measured[a.name] = m
	}
	return got
}
