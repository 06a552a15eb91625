// SPDX-License-Identifier: Apache-2.0

// Package rtnl creates, reads and changes devices, addresses, routes and network namespaces. It and
// the packages below it contain everything that Fairlead does by netlink and by switching network
// namespaces.
package rtnl

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Handle works on one network namespace, the host's from the daemon's point of view. Its methods
// may be called concurrently.
type Handle struct {
	ns   *NetNS
	conn *Conn
	tc   *netlink.Handle
	// deletions counts deletions whose caller did not wait for the kernel's reply.
	deletions sync.WaitGroup
}

// New returns a handle bound to the calling thread's network namespace.
func New() (*Handle, error) {
	ns, err := CurrentNetNS()
	if err != nil {
		return nil, err
	}
	h := &Handle{ns: ns}
	if h.conn, err = Dial(); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	if h.tc, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		h.conn.Close()
		return nil, errors.Join(fmt.Errorf("open rtnetlink socket: %w", err), ns.Close())
	}
	return h, nil
}

// Close releases the handle and changes nothing in the kernel. It waits for pending deletions,
// which use the handle until the kernel replies.
func (h *Handle) Close() error {
	h.deletions.Wait()
	h.tc.Close()
	h.conn.Close()
	return h.ns.Close()
}

// TC returns the handle for package tc, valid until Close.
func (h *Handle) TC() *netlink.Handle { return h.tc }

// Conn returns the handle's socket, valid until Close.
func (h *Handle) Conn() *Conn { return h.conn }

// Do runs fn on a thread in the handle's namespace.
func (h *Handle) Do(fn func() error) error { return h.ns.Do(fn) }
