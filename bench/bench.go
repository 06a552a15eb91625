// SPDX-License-Identifier: Apache-2.0

// Package bench runs the benchmarks: each contestant in turn, round after round, in rotated
// order. Each has a world of its own, which is created again for every case.
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

// Config describes a run.
type Config struct {
	Self        string                  // required: the program that generates the loads; static
	Cases       []cases.Case            // required
	Contestants []contestant.Contestant // required
	Rounds      int                     // required; the warm-up before them is not counted
	Duration    time.Duration           // required: of one measurement
	Progress    func(what string)       // called before each measurement; required
}

// Measurements returns how many times Progress will be called.
func (c Config) Measurements() int {
	n := 0
	for _, one := range c.Cases {
		n += len(c.Contestants) * c.Rounds
		if !one.Load.Fresh {
			n += len(c.Contestants)
		}
	}
	return n
}

// Run runs all cases. When ctx ends it cleans up and returns what was measured until then,
// with the error.
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

// versions queries the version of each contestant.
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
	for _, entrant := range present {
		if reason := entrant.Lacks(c); reason != "" {
			result.Absent[entrant.Name()] = reason
			continue
		}
		able = append(able, entrant)
	}
	entries, failed := open(ctx, cfg, able, env, c)
	defer func() { retErr = errors.Join(retErr, closeAll(entries)) }()
	for name, err := range failed {
		result.Failed[name] = err.Error()
	}
	if !c.Load.Fresh {
		if err := warmUp(ctx, cfg, entries, c, result); err != nil {
			return nil, err
		}
	}
	for round := range cfg.Rounds {
		got := runRound(ctx, cfg, entries, c, round)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		result.Rounds = append(result.Rounds, got)
	}
	return result, nil
}

// warmUp runs a round that does not count. Only its figures of what Fairlead's programs cost
// are used, because counting them takes time too.
func warmUp(ctx context.Context, cfg Config, entries []entry, c cases.Case, result *report.Case) error {
	counting, err := startCounting(entries)
	if err != nil {
		return err
	}
	runRound(ctx, cfg, entries, c, 0)
	if result.Costs, err = counting.costs(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// open makes all worlds of a case in parallel: making one is mostly waiting.
func open(ctx context.Context, cfg Config, able []contestant.Contestant, env report.Environment, c cases.Case) (entries []entry, failed map[string]error) {
	made, errs := make([]subject, len(able)), make([]error, len(able))
	var wg sync.WaitGroup
	for i, entrant := range able {
		wg.Go(func() { made[i], errs[i] = newSubject(ctx, cfg, entrant, env, c) })
	}
	wg.Wait()
	failed = make(map[string]error)
	for i, entrant := range able {
		if errs[i] != nil {
			failed[entrant.Name()] = errs[i]
		} else {
			entries = append(entries, entry{entrant.Name(), made[i]})
		}
	}
	return entries, failed
}

// closeAll removes the worlds.
func closeAll(entries []entry) error {
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries {
		wg.Go(func() { errs[i] = e.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runRound lets each contestant measure once. A different contestant begins each round.
func runRound(ctx context.Context, cfg Config, entries []entry, c cases.Case, round int) report.Round {
	got := report.Round{Measured: make(map[string]load.Measures), Failed: make(map[string]string)}
	for i := range entries {
		e := entries[(i+round)%len(entries)]
		cfg.Progress(fmt.Sprintf("%s %s", c.Name(), e.name))
		m, err := e.measure(ctx, cfg.Duration)
		if err != nil {
			got.Failed[e.name] = err.Error()
			continue
		}
		got.Measured[e.name] = m
	}
	return got
}
