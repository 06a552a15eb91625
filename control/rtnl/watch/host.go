// SPDX-License-Identifier: Apache-2.0

// Package watch reports netlink events: those of the host's devices, and those of the network
// namespaces of sandboxes.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Listener receives what Host sees. Its functions must not block.
type Listener struct {
	// Changed: a device, an address or a local route of the host may have changed. There are no
	// details: the listener reads the state itself, so that a lost message does no harm. Of
	// Fairlead's own devices, which change with every verb, only removals are reported.
	Changed func()
	// FilterRemoved: a clsact filter or qdisc of a device was removed.
	FilterRemoved func(ifindex int)
	// Link: a device that is not Fairlead's is new or was changed.
	Link func(l rtnl.Link)
	// Addr: a device, possibly one of Fairlead's, has a new global address.
	Addr func(ifindex uint32)
}

// Host reports changes of devices, addresses and local routes of the host until ctx is done.
func Host(ctx context.Context, h *rtnl.Handle, to Listener) error {
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_TC |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	err := follow(ctx, h, func() (int, error) {
		fd, err := subscribe(groups)
		if err == nil {
			err = localRoutesOnly(fd)
		}
		return fd, err
	}, func(messages []byte, lost bool) {
		if lost || isRelevant(messages, to) {
			to.Changed()
		}
	})
	return wrapUnless(ctx, "watch devices", err)
}

// follow passes messages of the socket that open returns to received until ctx is done. lost: there were
// more than the socket has room for.
func follow(ctx context.Context, h *rtnl.Handle, open func() (fd int, err error), received func(messages []byte, lost bool)) error {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = open()
		return err
	})
	if err != nil {
		return err
	}
	sock := os.NewFile(uintptr(fd), "rtnetlink")
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	buf := make([]byte, 1<<16)
	for {
		n, err := sock.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lost := errors.Is(err, unix.ENOBUFS)
		if err != nil && !lost {
			return err
		}
		received(buf[:max(n, 0)], lost)
	}
}

// wrapUnless says what failed, unless that is because ctx is done.
func wrapUnless(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w", what, err)
}

// subscribe opens a socket, in the calling thread's namespace, that receives the messages of
// these groups.
func subscribe(groups uint32) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// localRoutesOnly filters messages about other routes out of a socket in the kernel, since a
// router may have very many.
func localRoutesOnly(fd int) error {
	kind := func(k uint16) uint32 { // a 16-bit word in host order, as the filter loads it
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, k)))
	}
	const typeAt, rtmTypeAt = 4, unix.SizeofNlMsghdr + 7
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: kind(unix.RTM_NEWROUTE), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: kind(unix.RTM_DELROUTE), Jf: 2},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: rtmTypeAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.RTN_LOCAL, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// isRelevant reports whether messages concern anything else than the creation or change of
// Fairlead's devices, or filters. It calls the other functions of the listener.
func isRelevant(b []byte, to Listener) bool {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	relevant := false
	for _, m := range msgs {
		switch kind := m.Header.Type; {
		case kind == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg:
			if l := rtnl.ParseLink(m.Data); !l.Ours() {
				to.Link(l)
				relevant = true
			}
		case (kind == unix.RTM_DELTFILTER || kind == unix.RTM_DELQDISC) && len(m.Data) >= nl.SizeofTcMsg:
			to.FilterRemoved(int(int32(binary.NativeEndian.Uint32(m.Data[4:])))) // tcm_ifindex
		case kind == unix.RTM_NEWTFILTER || kind == unix.RTM_NEWQDISC || kind == unix.RTM_NEWCHAIN || kind == unix.RTM_DELCHAIN:
		case kind == unix.RTM_NEWADDR:
			if a, ok := rtnl.ParseAddr(m.Data); ok && a.IsGlobal() {
				to.Addr(a.IfIndex)
			}
			relevant = true
		default:
			relevant = true
		}
	}
	return relevant
}
