// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/test/flood"
	"github.com/fairlead-net/fairlead/test/lab"
)

// A table that is full of flows breaks no connection, and UDP keeps none from being accepted. The control is
// kernels.TestControls: the same loads through netfilter.
func TestLoadedTable(t *testing.T) {
	t.Parallel()
	const (
		room  = 512                      // flows
		limit = (2*room - 2*room/16) / 2 // connections
	)
	modes(t, lab.Config{DaemonArgs: []string{"--ct-max", fmt.Sprint(2 * room)}}, func(t *testing.T, l *lab.Lab) {
		web := l.Sandbox("web", "--network", network(l, "net"), "-p", "8080:80", "-p", "8080:80/udp")
		l.Echo(web.Host, 80)
		families(t, l, func(l *lab.Lab, f lab.Family) {
			way := flood.Way{
				Client: l.Outside, To: netip.AddrPortFrom(lab.Address(f.Of(lab.Host4, lab.Host6)), 8080),
				Sources: netip.MustParsePrefix(f.Of("198.18.0.0/15", "2001:db8:ff::/64")), Room: room, Groups: 6,
			}
			for load, want := range map[flood.Load]flood.Outcome{
				flood.Answered:    {Before: 50, BeforeLive: 50, Tried: 50, Opened: 50, OpenedLive: 50},
				flood.Lasting:     {Before: 50, BeforeLive: 50, Tried: 50, Opened: 50, OpenedLive: 50},
				flood.Connections: {Before: 50, BeforeLive: 50, Tried: limit - 50 + 1, Opened: limit - 50, OpenedLive: limit - 50},
			} {
				if load == flood.Lasting && l.Config.Clsact != (f == lab.IPv6) {
					continue // it takes long, and the table is the same
				}
				l.Fairlead("ct", "flush")
				got, err := way.Run(load)
				if err != nil {
					l.Fatal(err)
				}
				if got != want {
					l.Errorf("%s: %v; want: %v", load, got, want)
				}
			}
			if n := l.Metrics().Drops()["ct_full"]; n == 0 {
				l.Errorf("no refusal is counted as ct_full")
			}
		})
	})
}
