// SPDX-License-Identifier: Apache-2.0

// Package load makes traffic and measures it: one small client and server for
// each kind of load, run as one static program by every contestant.
//
// Each side, save of http, is one thread, locked and pinned to one processor, that calls
// blocking sockets by system call; no poller, no garbage collection and no
// other goroutine works while it measures. Times are of the monotonic clock,
// around each transaction. A client measures only after a whole transaction
// has succeeded, so that the start of a server is not part of it.
//
//	rr      one TCP connection; a request of Size bytes, an answer of as many, again
//	crr     a connection for each transaction: connect, 1 byte, 1 byte; the
//	        server closes first, as a web server that was asked to
//	crr60000  60 000 of these, however long that takes; what counts is how
//	        much of the speed of the first 5 000 the last 5 000 keep, by medians
//	stream  Streams TCP connections, written to in 128 KiB pieces; what counts
//	        is what the server says it has read
//	http    requests over Streams connections that stay; wrk asks, nginx answers
//	        from memory, both as Debian has them
//	httpclose  the same with a connection for each request
//	udp     datagrams of Size bytes as fast as they can be sent; what counts is
//	        what the server has read, asked over TCP before and after
package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Measures are what one run found, by name: p50, p99 and p999 in microseconds;
// rate, transactions or received datagrams a second; sent, datagrams a second;
// loss, the share that was not received; gbps, 10⁹ bits a second;
// kept, the speed at the end over that at the beginning. Whoever starts the client may
// add cycles, of the processors, for a transaction or a datagram.
type Measures map[string]float64

// Options say which load to make.
type Options struct {
	Kind     string         // required: see Kinds
	Address  netip.AddrPort // client: where the server is; server: where to listen
	Size     int            // bytes a message; rr and udp
	Streams  int            // connections; stream and http
	Duration time.Duration  // of the measurement; client
	CPU      int            // processor to stay on
}

// kind is the two sides of a load.
type kind struct {
	serve func(o Options) error
	run   func(o Options) (Measures, error)
}

var kinds = map[string]kind{
	"rr":        {serveRR, runRR},
	"crr":       {serveCRR, runCRR},
	"crr60000":  {serveCRR, runCRR60000},
	"http":      {serveHTTP, runHTTP},
	"httpclose": {serveHTTP, runHTTPClose},
	"stream":    {serveStream, runStream},
	"udp":       {serveUDP, runUDP},
}

// Serve answers clients until the process is killed.
func Serve(o Options) error {
	k, err := prepare(o)
	if err != nil {
		return err
	}
	return k.serve(o)
}

// Run is a client's life. It writes what it measured to w.
func Run(o Options, w io.Writer) error {
	k, err := prepare(o)
	if err != nil {
		return err
	}
	m, err := k.run(o)
	if err != nil {
		return fmt.Errorf("load %s to %s: %w", o.Kind, o.Address, err)
	}
	return json.NewEncoder(w).Encode(m)
}

// Idle does nothing until the process is killed.
func Idle() error { return unix.Pause() }

// prepare readies the process and the calling thread, which stays locked.
func prepare(o Options) (kind, error) {
	k, ok := kinds[o.Kind]
	if !ok {
		return kind{}, fmt.Errorf("load %q is unknown", o.Kind)
	}
	debug.SetGCPercent(-1)
	return k, pin(o.CPU)
}

// pin locks the goroutine to its thread, and that to a processor.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on processor %d: %w", cpu, err)
	}
	return nil
}

// Latencies are how long each transaction took.
type Latencies []time.Duration

// newLatencies has room for a million without growing.
func newLatencies() Latencies { return make(Latencies, 0, 1<<20) }

// measures sums them up; took is the time of all of them together.
func (l Latencies) measures(took time.Duration) (Measures, error) {
	if len(l) == 0 {
		return nil, errors.New("no transaction ended in time")
	}
	m := l.Quantiles()
	m["rate"] = float64(len(l)) / took.Seconds()
	return m, nil
}

// Quantiles are p50, p99 and p999 of one or more.
func (l Latencies) Quantiles() Measures {
	slices.Sort(l)
	return Measures{"p50": l.quantile(0.5), "p99": l.quantile(0.99), "p999": l.quantile(0.999)}
}

// median sorts them.
func (l Latencies) median() float64 {
	slices.Sort(l)
	return l.quantile(0.5)
}

// quantile is that of sorted Latencies, in microseconds.
func (l Latencies) quantile(q float64) float64 {
	return float64(l[int(q*float64(len(l)-1)+0.5)].Nanoseconds()) / 1000
}

// repeat calls once until it succeeds: the server may not be there yet. The
// process that started this one sets the limit.
func repeat(once func() error) {
	for once() != nil {
		time.Sleep(5 * time.Millisecond)
	}
}
