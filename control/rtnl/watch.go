// SPDX-License-Identifier: Apache-2.0

package rtnl

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
)

// Watch puts a token into changed whenever a device or an address of the host
// may have changed, until ctx is done. It does not say what: whoever listens
// looks for itself, so that a lost message costs nothing. Of Fairlead's own
// devices, which change with every verb, it tells only that one is gone, and
// which one lost a clsact filter or qdisc.
func (h *Handle) Watch(ctx context.Context, changed chan<- struct{}, unfiltered func(ifindex int)) error {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = subscribe(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_TC)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch devices: %w", err)
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
		// ENOBUFS: messages were lost, which is as good as one received.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch devices: %w", err)
		}
		if err == nil && !newsworthy(buf[:n], unfiltered) {
			continue
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// subscribe opens a socket, in the calling thread's namespace, that gets the
// messages of these groups.
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

// newsworthy reports whether messages tell of more than that devices of
// Fairlead's, or filters, were made or changed.
func newsworthy(b []byte, unfiltered func(ifindex int)) bool {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	news := false
	for _, m := range msgs {
		switch kind := m.Header.Type; {
		case kind == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg:
			l := parseLink(m.Data)
			news = news || !l.Ours()
		case (kind == unix.RTM_DELTFILTER || kind == unix.RTM_DELQDISC) && len(m.Data) >= nl.SizeofTcMsg:
			unfiltered(int(int32(binary.NativeEndian.Uint32(m.Data[4:])))) // tcm_ifindex
		case kind == unix.RTM_NEWTFILTER || kind == unix.RTM_NEWQDISC || kind == unix.RTM_NEWCHAIN || kind == unix.RTM_DELCHAIN:
		default:
			news = true
		}
	}
	return news
}
