// SPDX-License-Identifier: Apache-2.0

// Package rtnl is everything Fairlead does by rtnetlink and by switching
// network namespaces: links, addresses, routes, sandboxes' insides, clsact
// filters, and the watch over the host's network.
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

// dumpTries bounds how often a dump that changes interrupted is repeated.
const dumpTries = 16

// requestTimeout bounds the wait for the kernel's answer.
const requestTimeout = 10 * time.Second

// Handle works on one network namespace, the host's as the daemon sees it.
// Its methods may be called from several goroutines.
type Handle struct {
	ns   *NetNS
	conn *conn
	tc   *netlink.Handle
	// deletions are those whose caller did not wait for the kernel's answer.
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

// Close releases the handle; nothing in the kernel changes. It waits for deletions
// that the kernel has not answered yet, which use the handle until then.
func (h *Handle) Close() error {
	h.deletions.Wait()
	h.tc.Close()
	h.conn.close()
	return h.ns.Close()
}

// Do runs fn on a thread inside the handle's namespace.
func (h *Handle) Do(fn func() error) error { return h.ns.Do(fn) }

// conn is a socket that belongs to the namespace it was dialled in.
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
	// Errors explain themselves in words where the kernel can.
	if err := errors.Join(s.SetExtAck(true), s.SetReceiveTimeout(&tv), s.SetSendTimeout(&tv)); err != nil {
		s.Close()
		return nil, fmt.Errorf("set up rtnetlink socket: %w", err)
	}
	return &conn{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

// strict has the kernel check requests to list strictly, and heed what they ask for. Errors
// have no words then: nl does not understand those that end a list.
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

// get sends a request that has one answer.
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
		return nil, fmt.Errorf("%d answers to one rtnetlink request", len(msgs))
	}
	return msgs[0], nil
}

// dump sends a request that has many answers, and repeats it while what it
// reads changes under its feet.
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
