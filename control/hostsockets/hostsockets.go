// SPDX-License-Identifier: Apache-2.0

// Package hostsockets ends connected UDP sockets of host programs whose backend was removed. The kernel redirected such a socket
// when it connected, and would send its datagrams to the former backend's address for as long as it lives, without an error.
// The program gets ECONNABORTED, and connects again.
package hostsockets

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/desired"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl/sockdiag"
	"github.com/fairlead-net/fairlead/maps/redirects"
)

// Config configures New.
type Config struct {
	Redirects func() ([]redirects.Redirect, error)
	Log       *slog.Logger
}

// Sockets ends sockets as the published ports and services change.
type Sockets struct {
	cfg  Config
	now  atomic.Pointer[desired.Snapshot]
	wake chan struct{} // has a token if something may have gone
}

// New returns Sockets. Nothing is ended before the first Update.
func New(cfg Config) *Sockets { return &Sockets{cfg: cfg, wake: make(chan struct{}, 1)} }

// Update takes over a snapshot that the kernel has. It does not wait.
func (s *Sockets) Update(next *desired.Snapshot) {
	before := s.now.Swap(next)
	if before != nil && !lost(before, next) {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lost reports whether a published port or a member, which may be a backend, has changed or gone.
func lost(before, next *desired.Snapshot) bool {
	for c := range desired.DiffPublishes(before, next) {
		if c.Old != nil {
			return true
		}
	}
	for c := range desired.DiffEndpoints(before, next) {
		if c.Old != nil && (c.New == nil || c.New.IPv4 != c.Old.IPv4 || c.New.IPv6 != c.Old.IPv6) {
			return true
		}
	}
	return false
}

// Run ends sockets until ctx ends.
func (s *Sockets) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			if err := s.end(); err != nil {
				s.cfg.Log.Warn("cannot end connected UDP sockets of host programs whose backend was removed; they have to connect again by themselves", "err", err)
			}
		}
	}
}

func (s *Sockets) end() error {
	all, err := s.cfg.Redirects()
	if err != nil {
		return err
	}
	now, stale := s.now.Load(), map[uint64]netip.AddrPort{}
	for _, r := range all {
		if !serves(now, r) {
			stale[r.Cookie] = r.Backend
		}
	}
	if len(stale) == 0 {
		return nil
	}
	sockets, err := sockdiag.ConnectedUDP()
	if err != nil {
		return err
	}
	var errs []error
	ended := 0
	for _, socket := range sockets {
		if backend, ok := stale[socket.Cookie()]; !ok || socket.Remote() != backend {
			continue
		}
		switch err := socket.Destroy(); {
		case err == nil:
			ended++
		case !errors.Is(err, unix.ENOENT): // closed just now
			errs = append(errs, err)
		}
	}
	if ended > 0 {
		s.cfg.Log.Info("ended connected UDP sockets of host programs whose backend was removed", "sockets", ended)
	}
	return errors.Join(errs...)
}

// serves reports whether a socket is still connected to a backend of what it asked for. Members of services on other hosts
// are not known here, and count as backends.
func serves(s *desired.Snapshot, r redirects.Redirect) bool {
	at := r.Backend.Addr()
	if p := s.Publish(r.Number); p != nil {
		ep, port := s.Endpoint(p.EndpointID), r.Backend.Port()
		return ep != nil && ep.Addr(model.FamilyOf(at)) == at && port >= p.Port && port-p.Port < max(p.Count, 1)
	}
	svc := s.ServiceNumbered(r.Number)
	if svc == nil {
		return false
	}
	n := s.Network(svc.NetworkID)
	return n == nil || n.Has().Shared || s.MemberWithAddr(n.ID, at) != nil
}
