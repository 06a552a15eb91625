// SPDX-License-Identifier: Apache-2.0

// Package controller holds the verbs that users request: each is checked against the model and
// changes the desired state. It does not access the kernel itself.
package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/controller/presets"
	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/resource"
)

// Namespaces is the interface to the code that watches sandboxes' namespaces.
type Namespaces interface {
	// VanishedSandboxes lists the sandboxes whose network namespace has been missing for
	// at least this long.
	VanishedSandboxes(least time.Duration) []string
}

// Cluster is the part of a cluster that verbs on shared networks need. They call it without the lock of
// the state, because its store may not answer.
type Cluster interface {
	resource.Claimer
	// CreateNetwork creates a network in the cluster. plan makes it, given the subnets of the cluster's
	// other networks and the default MTU.
	CreateNetwork(ctx context.Context, encrypted bool, plan func(taken []netip.Prefix, mtu int) (*model.Network, error)) (*model.Network, error)
	// RemoveNetwork removes a network without endpoints on this host, now or later. It refuses one that
	// other nodes use; wait lets it wait a moment for members that they have just removed.
	RemoveNetwork(ctx context.Context, n *model.Network, wait bool) error
	// CreateService creates a service with this ID in a network. plan makes it, given its virtual
	// addresses.
	CreateService(ctx context.Context, n *model.Network, spec model.ServiceSpec, id string, plan func(v4, v6 netip.Addr) (*model.Service, error)) (*model.Service, error)
	RemoveService(ctx context.Context, n *model.Network, svc *model.Service) error
	// Withdrawn waits until no other node sends new flows to these members, by ID, which are leaving: for some
	// seconds at most, and only while the store answers.
	Withdrawn(ctx context.Context, network string, members []string)
	// ChangeService changes a service on all nodes, and returns what it is then.
	ChangeService(ctx context.Context, svc *model.Service, change func(*model.Service)) (*model.Service, error)
}

// errNoCluster refuses verbs on shared networks if this host is not part of a cluster.
var errNoCluster = model.Refuse(model.ErrForbidden, "driver overlay connects the hosts of a cluster, and this daemon is not part of one (start it with --store embed, or with --store etcd://HOST:2379 of another host)")

// Config configures a Controller.
type Config struct {
	Namespaces Namespaces // required
	// Cluster returns the cluster that this host is part of, or nil if it is not. The default is none.
	Cluster func() Cluster
	// RunDir is the daemon's run directory; required, absolute. Fairlead creates
	// its network namespaces in RunDir/netns.
	RunDir string
	// Alive reports whether the process with this ID and start time (field 22 of
	// /proc/PID/stat; 0 matches any) is alive. Required.
	Alive func(pid int, start uint64) bool
	// StartGrace is how long a client may take to complete an operation of several
	// steps: the client of an AutoRemove sandbox to report its program after the
	// creation, and a container runtime to remove the sandbox of a namespace that
	// it deleted. 0: one minute.
	StartGrace time.Duration
	// Defaults apply to networks and sandboxes whose own flags say nothing else.
	Defaults model.Defaults
}

func (c *Config) validate() error {
	switch {
	case c.Namespaces == nil:
		return errors.New("controller: no watch over namespaces")
	case c.Alive == nil:
		return errors.New("controller: no lookup of processes")
	case !filepath.IsAbs(c.RunDir):
		return fmt.Errorf("controller: run directory %q is not absolute", c.RunDir)
	}
	if c.Cluster == nil {
		c.Cluster = func() Cluster { return nil }
	}
	if c.StartGrace == 0 {
		c.StartGrace = time.Minute
	}
	return nil
}

// Controller executes users' verbs, as changes of a State that it shares with others.
type Controller struct {
	cfg     Config
	state   *txn.State
	removed map[string]removal // services of the cluster that were removed here; guarded by the state's lock
	leaving leaving
}

// New returns a Controller of a state. Call Start before anything else.
func New(state *txn.State, cfg Config) (*Controller, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Controller{cfg: cfg, state: state, removed: make(map[string]removal)}, nil
}

// Snapshot returns the state after the last successful verb.
func (c *Controller) Snapshot() *desired.Snapshot { return c.state.Snapshot() }

// Start loads the state, removes leftovers of interrupted verbs and of programs that
// exited, creates or changes predefined networks, and applies the result.
func (c *Controller) Start(ctx context.Context) error {
	return c.state.Start(ctx, func(t *txn.Tx) error {
		if n := reap(t, c.exitedSandboxes(t.Next)); n > 0 {
			t.Log().Info("removed sandboxes of exited programs", "count", n)
		}
		for _, ep := range slices.Collect(t.Next.Endpoints()) { // their removal did not follow
			if ep.Leaving {
				putLeaving(t, ep, false)
			}
		}
		for n := range t.Next.Networks() { // stored by versions that did not have idle networks
			resource.IdleIfUnused(t, n.ID)
		}
		return presets.Networks(ctx, t, c.cfg.Defaults)
	})
}
