// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/report"
)

// subject measures one case for one contestant, round after round.
type subject interface {
	measure(ctx context.Context, d time.Duration) (load.Measures, error)
	close() error
}

// entry is the subject of a contestant.
type entry struct {
	name string
	subject
}

// newSubject makes the subject that a case needs.
func newSubject(ctx context.Context, cfg Config, entrant contestant.Contestant, env report.Environment, c cases.Case) (subject, error) {
	open := func(ctx context.Context) (subject, error) { return newArena(ctx, cfg, entrant, env, c) }
	if c.Path == cases.Setup {
		open = func(ctx context.Context) (subject, error) { return newSetup(ctx, entrant, c) }
	}
	if c.Load.Fresh {
		return afresh(open), nil
	}
	return open(ctx)
}

// afresh makes a new world for every measurement, and measures making it.
type afresh func(ctx context.Context) (subject, error)

func (open afresh) measure(ctx context.Context, d time.Duration) (_ load.Measures, retErr error) {
	s, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, s.close()) }()
	return s.measure(ctx, d)
}

func (afresh) close() error { return nil }
