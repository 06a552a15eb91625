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

// entry is a contestant's subject.
type entry struct {
	name string
	subject
}

// newSubject makes what a case asks for.
func newSubject(ctx context.Context, cfg Config, who contestant.Contestant, env report.Environment, c cases.Case) (subject, error) {
	open := func(ctx context.Context) (subject, error) { return newArena(ctx, cfg, who, env, c) }
	if c.Path == cases.Setup {
		open = func(ctx context.Context) (subject, error) { return newSetup(ctx, who, c) }
	}
	if c.Load.Fresh {
		return afresh(open), nil
	}
	return open(ctx)
}

// afresh has a new world for every measurement, which is made by it.
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
