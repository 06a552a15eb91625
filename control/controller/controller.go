// SPDX-License-Identifier: Apache-2.0

// Package controller decides what should be: it checks every verb against the
// model, persists the change, and hands the new Snapshot to a [Kernel] that
// makes it real. It never sees the kernel itself.
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

	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Kernel is what the controller needs of the side that touches the kernel.
type Kernel interface {
	// Apply makes the snapshot real, by its difference against the one before.
	// After an error the snapshot before is applied again.
	Apply(ctx context.Context, s *model.Snapshot) error
	// HostPrefixes are the prefixes the host has addresses in or routes to.
	HostPrefixes(ctx context.Context) ([]netip.Prefix, error)
	// HostAddr finds an address of the host's own within a prefix, and the device
	// that has it; "" if there is none.
	HostAddr(ctx context.Context, within netip.Prefix) (device string, addr netip.Addr, err error)
	// PortFree returns nil if count ports from port on can be bound at the
	// address; a zero address is every address. An error that is
	// syscall.EADDRINUSE or model.ErrConflict says that another program has one.
	PortFree(proto model.Proto, addr netip.Addr, port, count uint16) error
	// InnerEnd tells where the inner end of a container engine's endpoint is.
	InnerEnd(ep *model.Endpoint) (model.InnerEnd, error)
	// VanishedSandboxes lists the sandboxes whose network namespace ended at least that long ago.
	VanishedSandboxes(least time.Duration) []string
	// EphemeralRange bounds the ports to choose from, both included.
	EphemeralRange() (lo, hi uint16)
}

// Config is what New needs.
type Config struct {
	Store  store.Store // required
	Kernel Kernel      // required
	// RunDir is the daemon's run directory; required, absolute. The namespaces
	// that Fairlead makes are at RunDir/netns.
	RunDir string
	// DefaultPools for networks that name no subnet. A family without a pool
	// gets the default: Docker's pools for IPv4, for IPv6 a unique local /48 made
	// up at the first start.
	DefaultPools []ipam.DefaultPool
	Log          *slog.Logger // nil: discard
	// Alive reports whether the process of that ID and start time (field 22 of
	// /proc/PID/stat; 0 matches any) lives. nil: look into /proc.
	Alive func(pid int, start uint64) bool
	// StartGrace is how long the client of an AutoRemove sandbox may take from
	// creating it to reporting its program, and a container engine from asking
	// for an endpoint to taking its inner end, and a container runtime from ending a
	// namespace to taking its sandbox away. 0: one minute.
	StartGrace time.Duration
	Now        func() time.Time // nil: time.Now
}

func (c *Config) validate() error {
	switch {
	case c.Store == nil:
		return errors.New("controller: no store")
	case c.Kernel == nil:
		return errors.New("controller: no kernel")
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
	if c.Alive == nil {
		c.Alive = alive
	}
	if c.StartGrace == 0 {
		c.StartGrace = time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Controller carries out verbs, one after the other. Reading does not wait for
// them.
type Controller struct {
	cfg  Config
	snap atomic.Pointer[model.Snapshot]

	sem chan struct{} // holds a token through a whole verb; guards what follows
	// pendingRollback are the ops that take back a change which may have reached the
	// store or the kernel but did not succeed.
	pendingRollback []store.Op
	defaults        []ipam.DefaultPool
	addrs           map[string]*addresses       // by network ID; driver bridge only
	pools           map[string]*ipam.Pool       // by ID of the engines' pools
	ports           portIndex                   // what living publishes occupy
	served          map[string][]*model.Publish // by sandbox ID
	lastIndex       uint32                      // of networks
	lastID          uint32                      // of publishes
	nextPort        uint16                      // where the search for an automatic host port goes on
}

// New makes a Controller; Start must follow.
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
	c.snap.Store(&model.Snapshot{
		Networks:  map[string]*model.Network{},
		Sandboxes: map[string]*model.Sandbox{},
		Endpoints: map[string]*model.Endpoint{},
		Publishes: map[uint32]*model.Publish{},
		Pools:     map[string]*model.AddressPool{},
	})
	return c, nil
}

// Snapshot is the state as of the last verb that succeeded.
func (c *Controller) Snapshot() *model.Snapshot { return c.snap.Load() }

// refuse makes the error of a verb that will not be done. The text names the
// thing and the remedy.
func refuse(kind error, format string, args ...any) error {
	return &model.Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// short is the form of an ID that people see.
func short(id string) string { return id[:min(12, len(id))] }
