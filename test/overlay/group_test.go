// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/control/rtnl"
	"github.com/fairlead-net/fairlead/control/rtnl/frames"
	labs "github.com/fairlead-net/fairlead/test/lab"
)

// query queries the members of each node, as its daemon does.
func (l *lab) query(times int) {
	l.Helper()
	for range times {
		for _, v := range l.nodes[1:] {
			gw := l.ifindex(v.host, "gw")
			l.must(v.host.Do(func() error {
				h, err := rtnl.New()
				if err != nil {
					return err
				}
				defer h.Close()
				if err := frames.QueryGroups(h, gw, model.MAC(insideMAC(gateway)), model.V4); err != nil {
					return err
				}
				return frames.QueryGroups(h, gw, model.MAC(insideMAC(gateway)), model.V6)
			}))
		}
		time.Sleep(1100 * time.Millisecond)
	}
}

// TestGroups is a group that containers join and leave: its datagrams go to the nodes on which one
// listens, and to no others; with all versions of IGMP and MLD.
func TestGroups(t *testing.T) {
	for _, older := range []bool{false, true} {
		t.Run(fmt.Sprintf("older=%t", older), func(t *testing.T) {
			t.Parallel() // it mostly waits
			l := newLab(t, config{third: true})
			defer l.explain()
			for _, v := range l.nodes[1:] {
				if older {
					l.must(v.ctr.Sysctl("ipv4/conf/eth0/force_igmp_version", "2"))
					l.must(v.ctr.Sysctl("ipv6/conf/eth0/force_mld_version", "1"))
				}
			}
			l.query(3)
			for _, v6 := range []bool{false, true} {
				t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) { l.groups(t, v6) })
			}
		})
	}
}

func (l *lab) groups(t *testing.T, v6 bool) {
	group := net.UDPAddr{IP: net.ParseIP("239.7.7.7"), Port: 5000}
	if v6 {
		group.IP = net.ParseIP("ff15::7")
	}
	a, b, c := l.nodes[1], l.nodes[2], l.nodes[3]
	text := fmt.Sprintf("to group %s", group.IP)
	toB, toC := labs.Hear(t, l.router, "r2", text), labs.Hear(t, l.router, "r3", text)
	sender, err := a.ctr.Dial(net.Dialer{}, "udp", group.String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	send := func(n int) {
		t.Helper()
		for range n {
			if _, err := fmt.Fprint(sender, text); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
	}
	// counted expects that datagrams reach these nodes alone.
	counted := func(what string, wantB, wantC bool) {
		t.Helper()
		beforeB, beforeC := toB.Load(), toC.Load()
		send(10)
		if gotB, gotC := toB.Load()-beforeB, toC.Load()-beforeC; gotB != map[bool]int64{true: 10}[wantB] || gotC != map[bool]int64{true: 10}[wantC] {
			t.Errorf("%s: %d of 10 datagrams left for b (want all: %t), %d for c (want all: %t)", what, gotB, wantB, gotC, wantC)
		}
	}
	counted("nobody listens", false, false)
	start := time.Now()
	atB := labs.Join(t, b.ctr, group)
	l.must(atB.SetReadDeadline(time.Now().Add(2 * time.Second)))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 100 {
			if _, err := fmt.Fprint(sender, text); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, err := atB.Read(make([]byte, 100)); err != nil || time.Since(start) > time.Second {
		t.Errorf("b listens, and received the first datagram after %v: %v", time.Since(start), err)
	} else {
		t.Logf("b received the first datagram after %v", time.Since(start))
	}
	<-sent
	time.Sleep(300 * time.Millisecond) // the last have left
	counted("b listens", true, false)
	// Queries that are answered change nothing.
	l.query(3)
	counted("b listens and was asked", true, false)
	second, atC := labs.Join(t, b.ctr, net.UDPAddr{IP: group.IP, Port: 5001}), labs.Join(t, c.ctr, group)
	time.Sleep(300 * time.Millisecond)
	counted("b and c listen", true, true)
	// One of two listeners on b leaves, as does the one on c.
	atB.Close()
	atC.Close()
	time.Sleep(1100 * time.Millisecond)
	counted("c left, and was not asked", true, true)
	l.query(2) // hosts repeat within two seconds that they leave
	time.Sleep(3 * time.Second)
	counted("c left", true, false)
	second.Close()
	time.Sleep(1100 * time.Millisecond)
	l.query(2)
	time.Sleep(3 * time.Second)
	counted("b left", false, false)
}
