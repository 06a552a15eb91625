// SPDX-License-Identifier: Apache-2.0

// Package rtnl contains everything that Fairlead does by rtnetlink and by switching network
// namespaces: links, addresses, routes, sandboxes, clsact filters, and the watches of network
// changes.
package rtnl

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// dumpTries bounds how often a dump is repeated that a change interrupted.
const dumpTries = 16

// requestTimeout bounds the wait for the kernel's reply.
const requestTimeout = 10 * time.Second

// Handle works on one network namespace, the host's from the daemon's point of view. Its methods
// may be called concurrently.
type Handle struct {
	ns   *NetNS
	conn *conn
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
	if h.conn, err = dial(); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	if h.tc, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		h.conn.close()
		return nil, errors.Join(fmt.Errorf("open rtnetlink socket: %w", err), ns.Close())
	}
	return h, nil
}

// Close releases the handle and changes nothing in the kernel. It waits for pending deletions,
// which use the handle until the kernel replies.
func (h *Handle) Close() error {
	h.deletions.Wait()
	h.tc.Close()
	h.conn.close()
	return h.ns.Close()
}

// Do runs fn on a thread in the handle's namespace.
func (h *Handle) Do(fn func() error) error { return h.ns.Do(fn) }

// conn is a socket in the namespace in which it was opened.
type conn struct {
	sockets map[int]*nl.SocketHandle
}

// dial opens a socket in the calling thread's namespace.
func dial() (*conn, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	tv := unix.NsecToTimeval(requestTimeout.Nanoseconds())
	// With extended acks the kernel can explain errors.
	if err := errors.Join(s.SetExtAck(true), s.SetReceiveTimeout(&tv), s.SetSendTimeout(&tv)); err != nil {
		s.Close()
		return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
	}
	return &conn{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

// strict makes the kernel check dump requests strictly and apply their filters. It disables
// extended acks, since nl cannot parse those at the end of a dump.
func (c *conn) strict() error {
	for _, s := range c.sockets {
		if err := s.Socket.SetExtAck(false); err != nil {
			return fmt.Errorf("set NETLINK_EXT_ACK: %w", err)
		}
		err := unix.SetsockoptInt(s.Socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		if err != nil {
			return fmt.Errorf("set NETLINK_GET_STRICT_CHK: %w", err)
		}
	}
	return nil
}

func (c *conn) close() {
	for _, s := range c.sockets {
		s.Close()
	}
}

// do sends a request and waits for its acknowledgement.
func (c *conn) do(kind, flags int, parts ...nl.NetlinkRequestData) error {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	req.Sockets = c.sockets
	for _, p := range parts {
		req.AddData(p)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// get sends a request that has one reply.
func (c *conn) get(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([]byte, error) {
	req := nl.NewNetlinkRequest(kind, 0)
	req.Sockets = c.sockets
	for _, p := range parts {
		req.AddData(p)
	}
	msgs, err := req.Execute(unix.NETLINK_ROUTE, answer)
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("%d replies to one rtnetlink request", len(msgs))
	}
	return msgs[0], nil
}

// dump sends a request that has many replies, and repeats it if a change interrupts it.
func (c *conn) dump(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	var err error
	for range dumpTries {
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		req.Sockets = c.sockets
		for _, p := range parts {
			req.AddData(p)
		}
		var msgs [][]byte
		msgs, err = req.Execute(unix.NETLINK_ROUTE, answer)
		if err == nil {
			return msgs, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
	return nil, err
}
