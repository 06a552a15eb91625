// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/bpf"
	"github.com/fairlead-net/fairlead/control/model"
	"github.com/fairlead-net/fairlead/test/lab"
)

// The sizes of `make bench-nodes` are in the Makefile.
var (
	nodesFlag     = flag.Int("nodes", 40, "simulated nodes")
	spanFlag      = flag.Int("span", 20, "simulated nodes of each network")
	endpointsFlag = flag.Int("endpoints", 2000, "simulated endpoints in all networks")
	networksFlag  = flag.Int("networks", 4, "networks")
	churnFlag     = flag.Int("churn", 20, "simulated endpoints that are replaced in a second")
	samplesFlag   = flag.Int("samples", 100, "changes that are timed")
)

// longestDelay limits the 99th percentile of the time from a change on another node to the entry in the
// map of this one.
const longestDelay = time.Second

// TestManyNodes times a daemon's part in a large cluster with the embedded store: from a change on another
// node to the entry in the map.
func TestManyNodes(t *testing.T) {
	lab.EmbeddedStore(t)
	l := lab.New(t, lab.Config{DaemonArgs: []string{"--store", "embed", "--store-token", "none", "--node-name", "real"}})
	for i := range *networksFlag {
		l.Eventually(20*time.Second, func() error { // the store may have just been started
			if r := l.Try("network", "create", "-d", "overlay", "--subnet", fmt.Sprintf("10.%d.0.0/16", i+1), fmt.Sprintf("net-%03d", i)); r.Code != 0 {
				return errors.New(r.Stderr)
			}
			return nil
		})
	}
	l.Sandbox("one", "--network", "net-000", "--ip", "10.1.0.10")
	sim := startNodes(l)
	l.Log(sim.line())
	fdb := l.PinnedMap(bpf.TCMapFlPeerFdb)
	defer fdb.Close()
	members := *spanFlag + *endpointsFlag / *networksFlag
	began := time.Now()
	var network uint32
	l.Eventually(time.Minute, func() (err error) {
		var n int
		if n, network, err = count(fdb); err == nil && n != members {
			err = fmt.Errorf("%d entries, want %d", n, members)
		}
		return err
	})
	l.Logf("the daemon had all %d members of its network %v later", members, time.Since(began).Round(time.Millisecond))
	var delays []time.Duration
	for range *samplesFlag {
		mac, since := sim.add()
		delays = append(delays, known(l, fdb, bpf.TCFdbKey{Net: network, Mac: mac}, since))
	}
	slices.Sort(delays)
	at := func(percent int) time.Duration {
		return delays[(len(delays)-1)*percent/100].Round(100 * time.Microsecond)
	}
	l.Logf("from a change to the entry: p50 %v, p90 %v, p99 %v, longest %v of %d", at(50), at(90), at(99), at(100), len(delays))
	l.Log(l.Must(l.Host, "sh", "-c", fmt.Sprintf("grep -E 'VmRSS|VmHWM' /proc/%d/status", l.Daemon.Pid())))
	if at(99) > longestDelay {
		l.Errorf("p99 is %v, want at most %v", at(99), longestDelay)
	}
}

// count returns how many entries the map has, and the network of one.
func count(fdb *ebpf.Map) (n int, network uint32, err error) {
	var key bpf.TCFdbKey
	var value bpf.TCFdbEntry
	entries := fdb.Iterate()
	for entries.Next(&key, &value) {
		n++
		network = key.Net
	}
	return n, network, entries.Err()
}

// known waits for an entry and returns how long after a time it was there.
func known(l *lab.Lab, fdb *ebpf.Map, key bpf.TCFdbKey, since time.Time) time.Duration {
	l.Helper()
	for {
		var value bpf.TCFdbEntry
		err := fdb.Lookup(key, &value)
		took := time.Since(since)
		switch {
		case err == nil:
			return took
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			l.Fatal(err)
		case took > 10*longestDelay:
			l.Fatalf("no entry %+v after %v", key, took)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// nodes is the program that simulates nodes.
type nodes struct {
	*lab.Lab
	out *bufio.Scanner
	in  *os.File
}

func startNodes(l *lab.Lab) *nodes {
	l.Helper()
	program, err := lab.Tool("github.com/fairlead-net/fairlead/bench/nodes")
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-store", "etcd://"+lab.Host4+":2379", "-nodes", strconv.Itoa(*nodesFlag),
		"-span", strconv.Itoa(*spanFlag), "-endpoints", strconv.Itoa(*endpointsFlag), "-churn", strconv.Itoa(*churnFlag))
	read, stdout, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}
	stdin, write, err := os.Pipe()
	if err != nil {
		l.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	err = l.Host.Start(cmd)
	stdin.Close()
	stdout.Close()
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		write.Close()
		cancel()
		cmd.Wait()
		read.Close()
	})
	return &nodes{l, bufio.NewScanner(read), write}
}

func (n *nodes) line() string {
	n.Helper()
	if !n.out.Scan() {
		n.Fatalf("the simulation ended: %v", n.out.Err())
	}
	return n.out.Text()
}

// add adds a member to the network of the real node, and returns its MAC and when it was published.
func (n *nodes) add() (mac model.MAC, since time.Time) {
	n.Helper()
	if _, err := n.in.WriteString("add\n"); err != nil {
		n.Fatal(err)
	}
	var text string
	var at int64
	line := n.line()
	if _, err := fmt.Sscan(line, &text, &at); err != nil {
		n.Fatalf("line %q: %v", line, err)
	}
	mac, err := model.ParseMAC(text)
	if err != nil {
		n.Fatal(err)
	}
	return mac, time.Unix(0, at)
}
