// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/tc"
)

// watchBuffer is the receive buffer, in bytes, for messages that arrive faster than they are
// read: it holds some thousand.
const watchBuffer = 4 << 20

// Sandboxes watches the network namespaces of sandboxes. Its sockets are in a namespace of their
// own, in which only the sandboxes that were added have IDs, so the kernel sends no messages from
// the host's namespace or any other.
type Sandboxes struct {
	conn *rtnl.Conn
	sock *os.File
}

// NewSandboxes returns a watch without sandboxes.
func NewSandboxes() (*Sandboxes, error) {
	w := new(Sandboxes)
	err := rtnl.InNewNetNS(func() (err error) {
		if w.conn, err = rtnl.Dial(); err != nil {
			return err
		}
		if w.sock, err = listenNetNS(); err != nil {
			w.conn.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch sandboxes: %w", err)
	}
	return w, nil
}

// listenNetNS opens a socket, in the calling thread's namespace, that receives messages from
// every namespace that has an ID there.
func listenNetNS() (*os.File, error) {
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE | unix.RTMGRP_TC)
	fd, err := subscribe(groups)
	if err != nil {
		return nil, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (needs CAP_NET_BROADCAST)", err)
	}
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// Close ends the watch. Run must have returned.
func (w *Sandboxes) Close() error {
	w.conn.Close()
	return w.sock.Close()
}

// Add adds a sandbox to the watch, and returns its number. A sandbox that was added before keeps
// its number. The kernel removes a namespace that ends, and may then assign its number to
// another.
func (w *Sandboxes) Add(ns *rtnl.NetNS) (number int32, err error) {
	number, err = w.conn.NetNSID(ns)
	if err == nil && number < 0 {
		if err = w.conn.AssignNetNSID(ns); err == nil {
			number, err = w.conn.NetNSID(ns)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("watch sandbox: %w", err)
	}
	return number, nil
}

// Run calls changed with the number of each sandbox whose devices, addresses, default routes or
// limits may have changed, and lost when messages were lost, until ctx is done.
func (w *Sandboxes) Run(ctx context.Context, changed func(number int32), lost func()) error {
	stop := context.AfterFunc(ctx, func() { w.sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := w.sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch sandboxes: %w", err)
	}
	buf, control := make([]byte, 1<<16), make([]byte, unix.CmsgSpace(4))
	for {
		var n, controlLen int
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, controlLen, _, _, recvErr = unix.Recvmsg(int(fd), buf, control, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		switch err = errors.Join(err, recvErr); {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case err != nil:
			return fmt.Errorf("watch sandboxes: %w", err)
		default:
			if number, ok := sender(control[:controlLen]); ok && affectsSandbox(buf[:n]) {
				changed(number)
			}
		}
	}
}

// sender returns the ID of the namespace that a message is from. Messages from the watch's own
// namespace have none.
func sender(control []byte) (number int32, ok bool) {
	msgs, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data)), true
		}
	}
	return 0, false
}

// affectsSandbox reports whether messages are about what Fairlead configures in a sandbox. Of
// routes, only default routes are: a router in a sandbox may have many others, which change all
// the time. Of traffic control, only the removal of a limit is.
func affectsSandbox(b []byte) bool {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if len(m.Data) < unix.SizeofRtMsg || m.Data[1] == 0 { // rtm_dst_len
				return true
			}
		case unix.RTM_DELQDISC:
			if len(m.Data) < nl.SizeofTcMsg || binary.NativeEndian.Uint32(m.Data[8:]) == tc.ShaperHandle { // tcm_handle
				return true
			}
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
			return true
		}
	}
	return false
}
