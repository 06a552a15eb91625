// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/load"
	"github.com/fairlead-net/fairlead/bench/topology"
)

// setupTimeout limits one measurement of a setup.
const setupTimeout = 10 * time.Minute

// setup is a contestant's world in which something is made; making it is what is measured.
type setup struct {
	world   *topology.Topology
	network contestant.Managed
	load    cases.Load
}

// first is the container that exists before anything is measured, second the network that it
// is connected to.
const (
	first  = "first"
	second = "second"
)

func newSetup(ctx context.Context, entrant contestant.Contestant, c cases.Case) (_ *setup, retErr error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	s := &setup{load: c.Load}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, s.close())
		}
	}()
	var err error
	if s.world, err = topology.New(); err != nil {
		return nil, err
	}
	network, err := entrant.Build(ctx, s.world, c.Path)
	if err != nil {
		return nil, err
	}
	managed, ok := network.(contestant.Managed)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s has no daemon to set anything up", entrant.Name()), network.Close())
	}
	s.network = managed
	if _, err := s.network.Start(ctx, first, 0); err != nil {
		return nil, err
	}
	return s, s.network.CreateNetwork(ctx, second, "10.98.0.0/24", "fd00:98::/64")
}

func (s *setup) measure(ctx context.Context, _ time.Duration) (load.Measures, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if s.load.Kind == cases.Publish {
		return s.publish(ctx)
	}
	return s.connect(ctx)
}

// publish starts a container with the given number of published ports.
func (s *setup) publish(ctx context.Context) (load.Measures, error) {
	before, err := s.network.Usage()
	if err != nil {
		return nil, err
	}
	took, err := s.network.Start(ctx, second, s.load.Size)
	if err != nil {
		return nil, err
	}
	after, err := s.network.Usage()
	if err != nil {
		return nil, err
	}
	return load.Measures{
		"took":      float64(took.Microseconds()) / 1000,
		"memory":    float64(after.Memory - before.Memory),
		"processes": float64(after.Processes - before.Processes),
	}, nil
}

// connect connects the first container to the second network and disconnects it again, the
// given number of times.
func (s *setup) connect(ctx context.Context) (load.Measures, error) {
	var joined, left load.Latencies
	for range s.load.Size {
		began := time.Now()
		if err := s.network.Connect(ctx, second, first); err != nil {
			return nil, err
		}
		between := time.Now()
		if err := s.network.Disconnect(ctx, second, first); err != nil {
			return nil, err
		}
		joined, left = append(joined, between.Sub(began)), append(left, time.Since(between))
	}
	join, leave := joined.Quantiles(), left.Quantiles()
	return load.Measures{"p50": join["p50"], "p99": join["p99"], "leave50": leave["p50"], "leave99": leave["p99"]}, nil
}

// close removes the world.
func (s *setup) close() error {
	var errs []error
	if s.network != nil {
		errs = append(errs, s.network.Close())
	}
	if s.world != nil {
		errs = append(errs, s.world.Close())
	}
	return errors.Join(errs...)
}
