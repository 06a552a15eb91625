// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-net/fairlead/bench/world"
)

// queryTime is short in make test, which shows only that every query is answered; make bench-names has a longer one.
var queryTime = flag.Duration("querytime", 300*time.Millisecond, "time of each part of TestRate")

// load is what clients saw that query at the same time, each with one query at a time.
type load struct {
	clients   int
	latencies []time.Duration // in order
	took      time.Duration
}

// queries sends queries for a name from several sockets of a sandbox until the time has passed. Each answer must end
// with the address.
func queries(h *world.Host, clients int, name string, address net.IP) (load, error) {
	query, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		return load{}, err
	}
	all, errs := make([][]time.Duration, clients), make([]error, clients)
	var done sync.WaitGroup
	start := time.Now()
	for i := range clients {
		c, err := h.Dial(net.Dialer{}, "udp4", net.JoinHostPort(resolver, "53"))
		if err != nil {
			return load{}, err
		}
		defer c.Close()
		done.Go(func() { all[i], errs[i] = queryLoop(c, slices.Clone(query), address, start.Add(*queryTime)) })
	}
	done.Wait()
	l := load{clients: clients, latencies: slices.Concat(all...), took: time.Since(start)}
	slices.Sort(l.latencies)
	return l, errors.Join(errs...)
}

func queryLoop(c net.Conn, query []byte, address net.IP, until time.Time) (latencies []time.Duration, err error) {
	if err := c.SetDeadline(until.Add(5 * time.Second)); err != nil {
		return nil, err
	}
	answer := make([]byte, 512)
	for id := uint16(0); time.Now().Before(until); id++ {
		binary.BigEndian.PutUint16(query, id)
		start := time.Now()
		if _, err := c.Write(query); err != nil {
			return nil, err
		}
		size, err := c.Read(answer)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(start))
		if got := answer[:size]; !bytes.HasPrefix(got, query[:2]) || !bytes.HasSuffix(got, address) {
			return nil, fmt.Errorf("query %d got %x, want an answer with %s", id, got, address)
		}
	}
	return latencies, nil
}

// Every query of a client is answered while others query at the same time. The log has the latency, and the number of
// answers that a processor of the daemon gives in a second.
func TestRate(t *testing.T) {
	t.Parallel()
	n := newNames(t)
	n.Fairlead("network", "create", "web")
	a, b := n.Sandbox("anna", "--network", "web"), n.Sandbox("ben", "--network", "web")
	for _, clients := range []int{1, 16} {
		before := n.DaemonTime()
		l, err := queries(a.Host, clients, "ben.", b.IP4.AsSlice())
		if err != nil {
			t.Fatal(err)
		}
		used := n.DaemonTime() - before
		count := len(l.latencies)
		if count < clients {
			t.Fatalf("%d answers to %d clients", count, clients)
		}
		perSecond := func(d time.Duration) float64 { return float64(count) / max(d, 10*time.Millisecond).Seconds() }
		t.Logf("%d clients: %.0f answers per second, %.0f per second of processor time; latency %v, of 99 %% at most %v",
			clients, perSecond(l.took), perSecond(used), l.latencies[count/2], l.latencies[count*99/100])
	}
}
