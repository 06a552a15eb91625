// SPDX-License-Identifier: Apache-2.0

// Package txn changes the desired state: a verb edits the next Snapshot in a [Tx], which is then
// persisted in the store, applied to the kernel and passed to the subscribers, or reverted as a
// whole. Indices of what snapshots do not hold, such as free addresses and host ports, belong
// to the state and follow it. This package does not know the rules of any verb.
package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/desired/txn/hostports"
	"github.com/fairlead-net/fairlead/control/ipam"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/store"
)

// Realizer is the interface to the code that changes the kernel's state.
type Realizer interface {
	// Accept takes over the successor of the snapshot that it took over last, without waiting for the
	// kernel. apply brings the kernel from that one to this one. It may run while others do that change
	// other objects. After an error another snapshot, without the change, is accepted and applied, if ctx can end. It
	// cannot for a change that removes by force, or reverts.
	Accept(ctx context.Context, s *desired.Snapshot) (apply func() error)
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

// Config configures a State.
type Config struct {
	Store    store.Store // required
	Realizer Realizer    // required
	Host     HostFacts   // required
	// DefaultPools serve networks that are created without a subnet. A family
	// without a pool gets the default: Docker's pools for IPv4, and for IPv6 a
	// unique local /48, generated at the first start.
	DefaultPools []ipam.DefaultPool
	Log          *slog.Logger     // nil: discard
	Now          func() time.Time // nil: time.Now
}

func (c *Config) validate() error {
	switch {
	case c.Store == nil:
		return errors.New("desired state: no store")
	case c.Realizer == nil:
		return errors.New("desired state: no kernel")
	case c.Host == nil:
		return errors.New("desired state: no facts of the host")
	}
	for _, p := range c.DefaultPools {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("default address pool: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// State is the desired state. Changes are decided one at a time. They are applied to the kernel at the
// same time if they use different things (see uses). Readers wait for neither.
type State struct {
	cfg  Config
	snap atomic.Pointer[desired.Snapshot] // with the changes that succeeded

	sem chan struct{} // holds a token while a change is decided or ends; guards the fields below
	// head is the snapshot with the changes that were decided. applying are those of them that the kernel
	// does not have yet.
	head     *desired.Snapshot
	applying []*Tx
	// pendingRollback holds the ops that revert failed changes, which may have
	// reached the store or the kernel.
	pendingRollback []store.Op
	subscribers     []func(*desired.Snapshot)
	defaults        []ipam.DefaultPool
	addrs           map[string]*ipam.Addresses  // by network ID; networks with subnets only
	pools           map[string]*ipam.Pool       // of engines, by ID
	ports           hostports.Index             // the host ports of all publishes
	served          map[string][]*model.Publish // by sandbox ID
	lastIndex       uint32                      // of networks
	lastID          uint32                      // of publishes
	nextPort        uint16                      // where the next search for an automatic host port begins
}

// New returns a State. Call Start before anything else.
func New(cfg Config) (*State, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &State{
		cfg:    cfg,
		sem:    make(chan struct{}, 1),
		addrs:  map[string]*ipam.Addresses{},
		pools:  map[string]*ipam.Pool{},
		ports:  hostports.Index{},
		served: map[string][]*model.Publish{},
	}
	s.head = &desired.Snapshot{}
	s.snap.Store(s.head)
	return s, nil
}

// Snapshot returns the state after the last successful change.
func (s *State) Snapshot() *desired.Snapshot { return s.snap.Load() }

// Decided returns the state with the changes that the kernel does not have yet. What it has may be gone again a
// moment later, since those may fail.
func (s *State) Decided(ctx context.Context) (*desired.Snapshot, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	return s.head, nil
}

// Log returns the logger of what changes.
func (s *State) Log() *slog.Logger { return s.cfg.Log }

// Now returns the current time.
func (s *State) Now() time.Time { return s.cfg.Now() }

// Subscribe makes the state call f with every new snapshot, once the kernel has it and before the
// change returns. f must not change the state. Subscribers are called in the order of their
// subscription.
func (s *State) Subscribe(f func(*desired.Snapshot)) {
	s.sem <- struct{}{}
	defer s.unlock()
	s.subscribers = append(s.subscribers, f)
}

// notify passes a snapshot to the subscribers.
func (s *State) notify(next *desired.Snapshot) {
	for _, f := range s.subscribers {
		f(next)
	}
}

// lock waits until no other change is running, or until ctx ends.
func (s *State) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other changes to complete: %w (try again)", ctx.Err())
	}
}

func (s *State) unlock() { <-s.sem }
