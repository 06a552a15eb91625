// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/rtnl"
)

// Routes calls changed when a route, an address or a device of the host changes, until ctx is done. It
// does not say which: a router has many changes, so the caller waits a moment for more.
func Routes(ctx context.Context, h *rtnl.Handle, changed func()) error {
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	err := follow(ctx, h, func() (int, error) { return subscribe(groups) }, func([]byte, bool) { changed() })
	return wrapUnless(ctx, "watch routes", err)
}
