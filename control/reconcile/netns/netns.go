// SPDX-License-Identifier: Apache-2.0

// Package netns creates, configures, watches and removes the network namespaces of sandboxes. In a
// namespace it maintains only what Fairlead created there.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/configure"
	"github.com/fairlead-net/fairlead/control/rtnl/settings"
	"github.com/fairlead-net/fairlead/control/rtnl/watch"
)

// Namespaces are the network namespaces of the sandboxes. The caller serializes access to a Sandbox.
type Namespaces struct {
	nl  *rtnl.Handle
	log *slog.Logger

	mu    sync.RWMutex     // guards what follows
	watch *watch.Sandboxes // nil while no watch runs
}

// New returns Namespaces without a watch.
func New(nl *rtnl.Handle, log *slog.Logger) *Namespaces { return &Namespaces{nl: nl, log: log} }

// Sandbox is what is known of the network namespace of a model.Sandbox.
type Sandbox struct {
	ID   string
	Want *model.Sandbox
	// Cookie identifies the namespace to the programs of sockets; 0: not known, or they are not to serve it.
	Cookie uint64

	vanished   bool // its namespace does not exist
	vanishedAt time.Time
	untracked  []uint32  // inner ends whose packets are exempt from connection tracking
	ended      time.Time // when no process was found in an engine's namespace; zero if one was
	watched    bool
	number     int32            // in the watch
	in         *watch.Sandboxes // the watch
}

// Learn takes over what is known of a namespace from seen, a copy of b that was used while b was accessible.
func (s *Namespaces) Learn(b, seen *Sandbox) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b.untracked, b.ended, b.Cookie = seen.untracked, seen.ended, seen.Cookie
	b.number, b.in, b.watched = seen.number, seen.in, seen.watched && seen.in == s.watch
}

// Vanished reports whether the namespace does not exist.
func (b *Sandbox) Vanished() bool { return b.vanished }

// VanishedFor reports whether the namespace has not existed for that long.
func (b *Sandbox) VanishedFor(least time.Duration) bool {
	return b.vanished && time.Since(b.vanishedAt) >= least
}

// Managed reports whether Fairlead configures the namespace. It does not if the sandbox uses the
// host's namespace, if it shares another sandbox's, or if an engine manages it.
func (b *Sandbox) Managed() bool {
	return b.Want != nil && b.Want.ManagedBy != model.ByEngine && b.Want.NetNS != "" && !b.Want.SharesNetNS()
}

// NoteVanished records that the namespace does not exist, and logs that once.
func (s *Namespaces) NoteVanished(b *Sandbox, err error) {
	if b.vanished {
		return
	}
	b.vanished, b.vanishedAt = true, time.Now()
	s.log.Warn("network namespace missing; sandbox disconnected",
		"sandbox", b.Want.Name, "id", model.ShortID(b.ID), "err", err)
}

// NoteBack records that the namespace exists, and logs that if it did not before.
func (s *Namespaces) NoteBack(b *Sandbox) {
	if b.vanished {
		b.vanished = false
		s.log.Info("sandbox is back", "sandbox", b.Want.Name, "id", model.ShortID(b.ID))
	}
}

// Create creates an owned sandbox's namespace if it is missing. While one of its devices is left,
// which inUse reports, so is the namespace, even if the path was removed: programs may run in
// it, so it is not replaced, and the error wraps rtnl.ErrNoNetNS. Create also identifies the namespace.
func (s *Namespaces) Create(b *Sandbox, inUse func() bool) (created bool, err error) {
	if created, err = s.create(b, inUse); err == nil && (created || b.Cookie == 0) {
		err = s.identify(b)
	}
	return created, err
}

// identify sets the cookie of a namespace. Those of runtimes have name servers that the runtime chose.
func (s *Namespaces) identify(b *Sandbox) error {
	if b.Cookie = 0; !b.Managed() || b.Want.ManagedBy == model.ByRuntime {
		return nil
	}
	ns, err := s.Open(b)
	if errors.Is(err, rtnl.ErrNoNetNS) {
		return nil // what needs it reports that
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() (err error) {
		b.Cookie, err = rtnl.NetNSCookie()
		return err
	})
}

func (s *Namespaces) create(b *Sandbox, inUse func() bool) (created bool, err error) {
	if !b.Want.OwnsNetNS() {
		return false, nil
	}
	ns, err := rtnl.OpenNetNS(b.Want.NetNS)
	if err == nil {
		return false, ns.Close()
	}
	if !errors.Is(err, rtnl.ErrNoNetNS) || inUse() {
		return false, err
	}
	return true, rtnl.CreateNetNS(b.Want.NetNS, func() error { return settings.Write(b.Want.Sysctls) })
}

// Open opens a sandbox's namespace.
func (s *Namespaces) Open(b *Sandbox) (*rtnl.NetNS, error) {
	return s.nl.OpenSandboxNetNS(b.Want.NetNS)
}

// Remove removes an owned sandbox's namespace.
func (s *Namespaces) Remove(b *Sandbox) error {
	if !b.Want.OwnsNetNS() {
		return nil
	}
	return rtnl.RemoveNetNS(b.Want.NetNS)
}

// Configure configures the devices in a sandbox's namespace, and adds it to the watch. keep are aliases of devices that
// are left alone.
func (s *Namespaces) Configure(b *Sandbox, devs []configure.Device, keep []string) (configure.Changes, error) {
	ns, err := s.Open(b)
	if err != nil {
		return configure.Changes{}, err
	}
	defer ns.Close()
	s.add(b, ns) // before the read, so that no change is missed
	return configure.Sandbox(ns, devs, keep...)
}

// Compare compares an interface with what the runtime was given: its name, and the gateways of
// the default routes that use it.
func (s *Namespaces) Compare(b *Sandbox, ifindex uint32, name string, gateways []netip.Addr) error {
	ns, err := s.Open(b)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := configure.Compare(ns, ifindex, name, gateways); err != nil {
		return fmt.Errorf("sandbox %s: %w", model.ShortID(b.ID), err)
	}
	return nil
}

// Sweep removes the namespaces in a directory whose paths are not wanted.
func (s *Namespaces) Sweep(dir string, wanted map[string]bool) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for leftover network namespaces: %w", err)
	}
	var errs []error
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if !wanted[path] && !f.IsDir() {
			s.log.Info("removed leftover network namespace", "path", path)
			errs = append(errs, rtnl.RemoveNetNS(path))
		}
	}
	return errors.Join(errs...)
}
