// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/cases"
	"github.com/fairlead-net/fairlead/bench/contestant"
	"github.com/fairlead-net/fairlead/bench/contestant/roster"
	"github.com/fairlead-net/fairlead/bench/topology"
	"github.com/fairlead-net/fairlead/test/flood"
)

// room is how many flows netfilter has room for. The size of its hash table is a multiple of this.
const room = 256

// attempts bounds how often a load is repeated. What netfilter makes of it depends on chance and on time: it looks for a flow to
// evict in eight rows of its hash table, and keeps UDP flows whose answer takes two seconds, as on a busy machine.
const attempts = 3

// controls are the loads of scenario.TestLoadedTable with what netfilter makes of them. The table's size is the whole
// machine's, so this needs a guest.
var controls = []struct {
	load  flood.Load
	want  flood.Outcome
	moves string // netfilter's counter that shows its way of dealing with the load
}{
	{load: flood.Answered, moves: "early_drop",
		want: flood.Outcome{Before: 50, BeforeLive: 50, Tried: 50, Opened: 50, OpenedLive: 50}},
	// The harm: UDP that lasts leaves no room for connections.
	{load: flood.Lasting, moves: "drop",
		want: flood.Outcome{Before: 50, BeforeLive: 50, Tried: 1}},
	{load: flood.Connections, moves: "drop",
		want: flood.Outcome{Before: 50, BeforeLive: 50, Tried: room - 50 + 1, Opened: room - 50, OpenedLive: room - 50}},
}

// runControls puts the loads on a bridge with the rules of a Docker Engine.
func runControls(r *report) {
	n, err := newControl()
	if !r.step("bridge", func() error { return err }) {
		return
	}
	for _, family := range []int{4, 6} {
		for _, c := range controls {
			r.step(fmt.Sprintf("%s/IPv%d", c.load, family), func() (err error) {
				for range attempts {
					if err = n.try(c.load, c.want, c.moves, family); err == nil {
						break
					}
				}
				return err
			})
		}
	}
}

// try puts a load on the bridge and compares what netfilter makes of it.
func (n *control) try(load flood.Load, want flood.Outcome, moves string, family int) error {
	before, err := n.prepare()
	if err != nil {
		return err
	}
	got, err := n.way(family).Run(load)
	if err != nil {
		return err
	}
	after, err := n.counters()
	if err != nil {
		return err
	}
	if got != want {
		err = fmt.Errorf("%v; want: %v", got, want)
	}
	if after[moves] == before[moves] {
		err = errors.Join(err, fmt.Errorf("netfilter's counter %s stays %d", moves, after[moves]))
	}
	return err
}

// control is a bridge with the rules of a Docker Engine.
type control struct {
	topology *topology.Topology
	network  contestant.Network
	server   contestant.Container
	netlink  *netlink.Handle // in the host's namespace
}

func newControl() (*control, error) {
	// The hash table is as large as the table may become, as by default: netfilter looks for a flow to evict in a few of
	// its rows.
	for _, name := range []string{"nf_conntrack_buckets", "nf_conntrack_max"} {
		if err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte(strconv.Itoa(room)), 0); err != nil {
			return nil, err
		}
	}
	t, err := topology.New()
	if err != nil {
		return nil, err
	}
	n := &control{topology: t}
	all := roster.Counted("")
	engine := all[slices.IndexFunc(all, func(c contestant.Contestant) bool { return c.Name() == "nft" })]
	ctx := context.Background()
	if n.network, err = engine.Build(ctx, t, cases.Published); err != nil {
		return nil, err
	}
	if n.server, err = n.network.Container(ctx, "server", 1, "/bin/guest", "serve", strconv.Itoa(contestant.Port)); err != nil {
		return nil, err
	}
	err = t.Host.Do(func() (err error) {
		n.netlink, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, eventually(func() error {
		return t.Outside.Do(func() error {
			_, err := ask("tcp", n.way(4).To.String())
			return err
		})
	})
}

func (n *control) way(family int) flood.Way {
	w := flood.Way{
		Client: n.topology.Outside, Sources: netip.MustParsePrefix("198.18.0.0/15"), Room: room, Groups: 1,
		To: netip.AddrPortFrom(n.network.Published(cases.Published, n.server, family), contestant.Port),
	}
	if family == 6 {
		w.Sources = netip.MustParsePrefix("2001:db8:ff::/64")
	}
	return w
}

// prepare empties the table of flows, and returns the counters before the load.
func (n *control) prepare() (map[string]int64, error) {
	if err := n.netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return nil, err
	}
	return n.counters()
}

// counters returns those of netfilter's connection tracking by name, as the sum over the processors.
func (n *control) counters() (map[string]int64, error) {
	var text []byte
	err := n.topology.Host.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := map[string]int64{}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	names := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		for i, field := range strings.Fields(line) {
			value, err := strconv.ParseInt(field, 16, 64)
			if err != nil {
				return nil, err
			}
			sum[names[i]] += value
		}
	}
	return sum, nil
}
