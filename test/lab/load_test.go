// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"
)

// A load that is held up or robbed for a tenth of a second says so, and one that
// is not does not.
func TestLoadNoticesDisturbance(t *testing.T) {
	const interruption = 100 * time.Millisecond
	for _, tc := range []struct {
		name, begin, end string // commands on the client's host
		judge            func(t *testing.T, r Report)
	}{
		{"nothing", "true", "true", func(t *testing.T, r Report) {
			if d := r.Disturbances(interruption / 2); len(d) > 0 || r.Transit <= 0 || r.Datagrams == 0 || r.Messages == 0 || r.Connections == 0 {
				t.Errorf("a load that nothing disturbed says %q", d)
			}
		}},
		{
			"requests held up",
			"tc qdisc add dev eth0 root tbf rate 8kbit burst 1600 limit 10mb",
			"tc qdisc change dev eth0 root tbf rate 10gbit burst 1mb limit 10mb",
			func(t *testing.T, r Report) {
				if r.Transit < interruption/2 {
					t.Error("it does not say how long the datagrams were under way")
				}
				if r.Lost > 0 || len(r.Errors) > 0 {
					t.Error("it says that something else happened")
				}
			},
		},
		{
			"replies dropped",
			"nft 'table inet thief { chain input { type filter hook input priority 0; policy drop; }; }'",
			"nft delete table inet thief",
			func(t *testing.T, r Report) {
				if r.Lost < int(interruption/datagramEvery)/2 {
					t.Error("it does not say that datagrams were lost")
				}
				if r.Retransmitted < streams/2 {
					t.Error("it does not say that segments were sent again")
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &Lab{TB: t, history: new(history)}
			client, server := l.NewControl()
			load := l.StartLoad("control", client, server, ControlAddress)
			l.Must(client, "sh", "-c", tc.begin)
			time.Sleep(interruption)
			l.Must(client, "sh", "-c", tc.end)
			time.Sleep(interruption)
			r := load.Stop()
			t.Log(r, r.Errors)
			tc.judge(t, r)
		})
	}
}
