// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/netfilter"
)

// ending is how long an engine may take to remove a container whose processes ended.
const ending = 10 * time.Second

// IsUntracked reports whether, as far as is known, a device of the sandbox is exempt from
// connection tracking.
func (b *Sandbox) IsUntracked(ifindex uint32) bool { return slices.Contains(b.untracked, ifindex) }

// Untrack exempts exactly these devices in a sandbox's namespace from connection tracking, and
// reports whether it restored what others changed. The namespace of an engine-managed sandbox is
// found as that of the peer of outer, by a process in it. If there has been none for long, it may be invisible to this
// process, and the error wraps rtnl.ErrNoNetNS.
func (s *Namespaces) Untrack(b *Sandbox, devices []uint32, outer rtnl.Link) (restored bool, err error) {
	engine := b.Want.ManagedBy == model.ByEngine
	if len(devices) == 0 && (engine || len(b.untracked) == 0) {
		b.untracked = nil // the container ended or left the network
		return false, nil
	}
	slices.Sort(devices)
	var ns *rtnl.NetNS
	if engine {
		ns, err = s.nl.PeerNetNS(outer)
		switch {
		case err == nil:
			b.ended = time.Time{}
		case b.ended.IsZero():
			b.ended = time.Now()
		}
		if errors.Is(err, rtnl.ErrNoNetNS) && time.Since(b.ended) < ending {
			return false, nil
		}
	} else {
		ns, err = s.Open(b)
	}
	if err != nil {
		return false, fmt.Errorf("install notrack rules: %w", err)
	}
	defer ns.Close()
	changed, err := netfilter.Untrack(ns, devices)
	if err != nil {
		return false, err
	}
	restored = changed && slices.Equal(b.untracked, devices)
	b.untracked = devices
	return restored, nil
}
