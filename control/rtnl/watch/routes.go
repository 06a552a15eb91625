// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Routes calls changed when a route, an address or a device of the host changes, until ctx is done. It
// does not say which: a router has many changes, so the caller waits a moment for more.
func Routes(ctx context.Context, h *rtnl.Handle, changed func()) error {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = subscribe(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
			unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	sock := os.NewFile(uintptr(fd), "rtnetlink")
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		_, err := sock.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// ENOBUFS: messages were lost.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch routes: %w", err)
		}
		changed()
	}
}
