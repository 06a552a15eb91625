// SPDX-License-Identifier: Apache-2.0

// Package controller maintains the desired state: it checks every verb against the
// model, persists the change, and passes the new Snapshot to a [Kernel], which
// applies it. It does not access the kernel itself.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Kernel is the interface to the code that changes the kernel's state.
type Kernel interface {
	// Apply brings the kernel from the previous snapshot to this one. After an
	// error the controller applies the previous snapshot again.
	Apply(ctx context.Context, s *desired.Snapshot) error
	// InnerEnd returns where the inner end of an engine-managed endpoint is.
	InnerEnd(ep *model.Endpoint) (model.InnerEnd, error)
	// VanishedSandboxes lists the sandboxes whose network namespace has been missing for
	// at least this long.
	VanishedSandboxes(least time.Duration) []string
}

// HostFacts is the interface to the code that reads facts of the host.
type HostFacts interface {
	// HostPrefixes returns the prefixes that the host has addresses in or routes to.
	HostPrefixes(ctx context.Context) ([]netip.Prefix, error)
	// HostAddr finds an address of the host within a prefix, and the device that
	// has it. The device is "" if there is none.
	HostAddr(ctx context.Context, within netip.Prefix) (device string, addr netip.Addr, err error)
	// PortFree returns nil if count ports from port on can be bound at the
	// address; a zero address stands for all addresses. syscall.EADDRINUSE or
	// model.ErrConflict means that another program uses one of them.
	PortFree(proto model.Proto, addr netip.Addr, port, count uint16) error
	// EphemeralRange returns the lowest and the highest port for automatic host ports.
	EphemeralRange() (lo, hi uint16)
}

// Config configures a Controller.
type Config struct {
	Store  store.Store // required
	Kernel Kernel      // required
	Host   HostFacts   // required
	// Changed is called with every new snapshot, once the kernel has it and before the verb
	// returns. nil: nothing is.
	Changed func(*desired.Snapshot)
	// RunDir is the daemon's run directory; required, absolute. Fairlead creates
	// its network namespaces in RunDir/netns.
	RunDir string
	// DefaultPools serve networks that are created without a subnet. A family
	// without a pool gets the default: Docker's pools for IPv4, and for IPv6 a
	// unique local /48, generated at the first start.
	DefaultPools []ipam.DefaultPool
	Log          *slog.Logger // nil: discard
	// Alive reports whether the process with this ID and start time (field 22 of
	// /proc/PID/stat; 0 matches any) is alive. Required.
	Alive func(pid int, start uint64) bool
	// StartGrace is how long a client may take to complete an operation of several
	// steps: the client of an AutoRemove sandbox to report its program after the
	// creation, a container engine to move the inner end of an endpoint that it
	// requested, and a container runtime to remove the sandbox of a namespace that
	// it deleted. 0: one minute.
	StartGrace time.Duration
	Now        func() time.Time // nil: time.Now
}

func (c *Config) validate() error {
	switch {
	case c.Store == nil:
		return errors.New("controller: no store")
	case c.Kernel == nil:
		return errors.New("controller: no kernel")
	case c.Host == nil:
		return errors.New("controller: no facts of the host")
	case c.Alive == nil:
		return errors.New("controller: no lookup of processes")
	case !filepath.IsAbs(c.RunDir):
		return fmt.Errorf("controller: run directory %q is not absolute", c.RunDir)
	}
	for _, p := range c.DefaultPools {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("controller: default address pool: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.StartGrace == 0 {
		c.StartGrace = time.Minute
	}
	if c.Changed == nil {
		c.Changed = func(*desired.Snapshot) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Controller executes verbs one at a time. Readers do not wait for them.
type Controller struct {
	cfg  Config
	snap atomic.Pointer[desired.Snapshot]

	sem chan struct{} // holds a token during each verb; guards the fields below
	// pendingRollback holds the ops that revert a failed change, which may have
	// reached the store or the kernel.
	pendingRollback []store.Op
	defaults        []ipam.DefaultPool
	addrs           map[string]*addresses       // by network ID; driver bridge only
	pools           map[string]*ipam.Pool       // of engines, by ID
	ports           portIndex                   // the host ports of all publishes
	served          map[string][]*model.Publish // by sandbox ID
	lastIndex       uint32                      // of networks
	lastID          uint32                      // of publishes
	nextPort        uint16                      // where the next search for an automatic host port begins
}

// New returns a Controller. Call Start before anything else.
func New(cfg Config) (*Controller, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Controller{
		cfg:    cfg,
		sem:    make(chan struct{}, 1),
		addrs:  map[string]*addresses{},
		pools:  map[string]*ipam.Pool{},
		ports:  portIndex{},
		served: map[string][]*model.Publish{},
	}
	c.snap.Store(&desired.Snapshot{})
	return c, nil
}

// Snapshot returns the state after the last successful verb.
func (c *Controller) Snapshot() *desired.Snapshot { return c.snap.Load() }

// refuse returns the error of a verb that is refused. The text names the
// object and the remedy.
func refuse(kind error, format string, args ...any) error {
	return &model.Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}
