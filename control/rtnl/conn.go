// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"errors"
	"fmt"
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

// Conn is an rtnetlink socket in the namespace in which it was opened. It may be used concurrently.
type Conn struct {
	sockets map[int]*nl.SocketHandle
}

// Dial opens a socket in the calling thread's namespace.
func Dial() (*Conn, error) {
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
	return &Conn{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

// strict makes the kernel check dump requests strictly and apply their filters. It disables
// extended acks, since nl cannot parse those at the end of a dump.
func (c *Conn) strict() error {
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

// Close closes the socket.
func (c *Conn) Close() {
	for _, s := range c.sockets {
		s.Close()
	}
}

// do sends a request and waits for its acknowledgement.
func (c *Conn) do(kind, flags int, parts ...nl.NetlinkRequestData) error {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	req.Sockets = c.sockets
	for _, p := range parts {
		req.AddData(p)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// get sends a request that has one reply.
func (c *Conn) get(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([]byte, error) {
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
func (c *Conn) dump(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
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
