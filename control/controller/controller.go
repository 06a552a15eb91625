// SPDX-License-Identifier: Apache-2.0

// Package controller holds the verbs that users request: each is checked against the model and
// changes the desired state. It does not access the kernel itself.
package controller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
)

// Kernel is the interface to the code that knows the state of sandboxes' namespaces.
type Kernel interface {
	// InnerEnd returns where the inner end of an engine-managed endpoint is.
	InnerEnd(ep *model.Endpoint) (model.InnerEnd, error)
	// VanishedSandboxes lists the sandboxes whose network namespace has been missing for
	// at least this long.
	VanishedSandboxes(least time.Duration) []string
}

// Config configures a Controller.
type Config struct {
	Kernel Kernel // required
	// RunDir is the daemon's run directory; required, absolute. Fairlead creates
	// its network namespaces in RunDir/netns.
	RunDir string
	// Alive reports whether the process with this ID and start time (field 22 of
	// /proc/PID/stat; 0 matches any) is alive. Required.
	Alive func(pid int, start uint64) bool
	// StartGrace is how long a client may take to complete an operation of several
	// steps: the client of an AutoRemove sandbox to report its program after the
	// creation, a container engine to move the inner end of an endpoint that it
	// requested, and a container runtime to remove the sandbox of a namespace that
	// it deleted. 0: one minute.
	StartGrace time.Duration
}

func (c *Config) validate() error {
	switch {
	case c.Kernel == nil:
		return errors.New("controller: no kernel")
	case c.Alive == nil:
		return errors.New("controller: no lookup of processes")
	case !filepath.IsAbs(c.RunDir):
		return fmt.Errorf("controller: run directory %q is not absolute", c.RunDir)
	}
	if c.StartGrace == 0 {
		c.StartGrace = time.Minute
	}
	return nil
}

// Controller executes users' verbs, as changes of a State that it shares with others.
type Controller struct {
	cfg   Config
	state *txn.State
}

// New returns a Controller of a state. Call Start before anything else.
func New(state *txn.State, cfg Config) (*Controller, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Controller{cfg: cfg, state: state}, nil
}

// Snapshot returns the state after the last successful verb.
func (c *Controller) Snapshot() *desired.Snapshot { return c.state.Snapshot() }

// Start loads the state, removes leftovers of interrupted verbs and of programs that
// exited, creates missing predefined networks, and applies the result.
func (c *Controller) Start(ctx context.Context) error {
	return c.state.Start(ctx, func(now *txn.Tx) error {
		t := &tx{now, c}
		if err := t.createPredefined(ctx); err != nil {
			return err
		}
		if n := t.reap(c.exitedSandboxes(t.Next), nil); n > 0 { // orphaned endpoints can be detected only after Apply
			c.state.Log().Info("removed sandboxes of exited programs", "count", n)
		}
		for n := range t.Next.Networks() { // stored by versions that did not have idle networks
			t.idleIfUnused(n.ID)
		}
		return nil
	})
}

// createPredefined creates the networks that exist from the first start.
func (t *tx) createPredefined(ctx context.Context) error {
	for _, spec := range []model.NetworkSpec{
		{Name: model.NetworkBridge, Driver: model.DriverBridge},
		{Name: model.NetworkHost, Driver: model.DriverHost},
		{Name: model.NetworkNone, Driver: model.DriverNull},
	} {
		if desired.First(t.Next.NetworksNamed(spec.Name)) != nil {
			continue
		}
		if _, err := t.createNetwork(ctx, spec); err != nil {
			return fmt.Errorf("create the predefined network %s: %w", spec.Name, err)
		}
	}
	return nil
}

// tx is the transaction of one verb.
type tx struct {
	*txn.Tx
	c *Controller
}

// update runs one verb.
func (c *Controller) update(ctx context.Context, fn func(*tx) error) error {
	return c.state.Update(ctx, func(t *txn.Tx) error { return fn(&tx{t, c}) })
}

// refuse returns the error of a verb that is refused. The text names the
// object and the remedy.
func refuse(kind error, format string, args ...any) error { return model.Refuse(kind, format, args...) }
