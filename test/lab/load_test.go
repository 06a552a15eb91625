// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// A load that is delayed or loses packets for a tenth of a second reports that, and an
// undisturbed load does not. How the machine itself disturbs it is not known, so an
// undisturbed load may be tried again.
func TestLoadNoticesDisturbance(t *testing.T) {
	const interruption = 100 * time.Millisecond
	for _, tc := range []struct {
		name, prepare, begin, end string // commands on the client's host; the first before the load
		tries                     int
		judge                     func(r Report) error
	}{
		{
			"nothing", "true", "true", "true", 3,
			func(r Report) error {
				if d := r.Disturbances(interruption / 2); len(d) > 0 || r.Transit <= 0 || r.Datagrams == 0 || r.Messages == 0 || r.Connections == 0 {
					return fmt.Errorf("an undisturbed load reports %q", d)
				}
				return nil
			},
		},
		{
			// The kernel drops what is sent while a queueing discipline is being added, so that is done before.
			"requests held up",
			"tc qdisc add dev eth0 root tbf rate 10gbit burst 1mb limit 10mb",
			"tc qdisc change dev eth0 root tbf rate 8kbit burst 1600 limit 10mb",
			"tc qdisc change dev eth0 root tbf rate 10gbit burst 1mb limit 10mb",
			1,
			func(r Report) error {
				if r.Transit < interruption/2 {
					return errors.New("it does not say how long the datagrams were under way")
				}
				if r.Lost > 0 || len(r.Errors) > 0 {
					return errors.New("it says that something else happened")
				}
				return nil
			},
		},
		{
			"replies dropped",
			"true",
			"nft 'table inet thief { chain input { type filter hook input priority 0; policy drop; }; }'",
			"nft delete table inet thief",
			1,
			func(r Report) error {
				if r.Lost < int(interruption/datagramEvery)/2 {
					return errors.New("it does not say that datagrams were lost")
				}
				if r.Retransmitted < streams/2 {
					return errors.New("it does not say that segments were sent again")
				}
				return nil
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &Lab{TB: t, history: new(history)}
			client, server := l.NewControl()
			l.Must(client, "sh", "-c", tc.prepare)
			var err error
			for range tc.tries {
				load := l.StartLoad("control", client, server, ControlAddress)
				l.Must(client, "sh", "-c", tc.begin)
				time.Sleep(interruption)
				l.Must(client, "sh", "-c", tc.end)
				time.Sleep(interruption)
				r := load.Stop()
				t.Log(r, r.Errors)
				if err = tc.judge(r); err == nil {
					return
				}
			}
			t.Error(err)
		})
	}
}
