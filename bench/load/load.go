// SPDX-License-Identifier: Apache-2.0

// Package load generates traffic and measures it: one small client and server for each kind
// of load, run as one static program by every contestant.
//
// Each side, except that of http, is one thread, locked and pinned to one processor, that
// calls blocking sockets by system call; no poller, garbage collection or other goroutine
// runs while it measures. Times are read from the monotonic clock, around each transaction. A
// client starts to measure only after a whole transaction has succeeded, so that the server's
// start is not included.
//
//	rr      one TCP connection; requests of Size bytes and responses of the same size
//	crr     a connection for each transaction: connect, 1 byte, 1 byte; the
//	        server closes first, like a web server on "Connection: close"
//	crr60000  60 000 of these, however long that takes; the result is how
//	        much of the speed of the first 5 000 the last 5 000 keep, by medians
//	stream  Streams TCP connections, written to in 128 KiB pieces; the result
//	        is what the server reports to have read
//	http    requests over Streams persistent connections; wrk is the client, nginx answers
//	        from memory, both from Debian
//	httpclose  the same with a connection for each request
//	udp     datagrams of Size bytes as fast as they can be sent; the result is
//	        what the server has read, queried over TCP before and after
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

// Measures holds the results of one run by name: p50, p99 and p999 in microseconds; rate,
// transactions or received datagrams per second; sent, datagrams per second; loss, the share
// that was not received; gbps, 10⁹ bits per second; kept, the speed at the end relative to
// that at the beginning. The program that starts the client may add cycles, of all
// processors, per transaction or datagram.
type Measures map[string]float64

// Options describe the load to generate.
type Options struct {
	Kind     string         // required: see Kinds
	Address  netip.AddrPort // client: where the server is; server: where to listen
	Size     int            // bytes per message; rr and udp
	Streams  int            // connections; stream and http
	Duration time.Duration  // of the measurement; client
	CPU      int            // processor to pin the thread to
}

// kind holds the two sides of a load.
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

// Run runs a client and writes what it measured to w.
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

// prepare prepares the process and the calling thread, which stays locked.
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

// Latencies holds how long each transaction took.
type Latencies []time.Duration

// newLatencies returns Latencies with room for a million without growing.
func newLatencies() Latencies { return make(Latencies, 0, 1<<20) }

// measures summarizes the latencies; took is the time of all of them together.
func (l Latencies) measures(took time.Duration) (Measures, error) {
	if len(l) == 0 {
		return nil, errors.New("no transaction ended in time")
	}
	m := l.Quantiles()
	m["rate"] = float64(len(l)) / took.Seconds()
	return m, nil
}

// Quantiles returns p50, p99 and p999 of one or more latencies.
func (l Latencies) Quantiles() Measures {
	slices.Sort(l)
	return Measures{"p50": l.quantile(0.5), "p99": l.quantile(0.99), "p999": l.quantile(0.999)}
}

// median sorts them.
func (l Latencies) median() float64 {
	slices.Sort(l)
	return l.quantile(0.5)
}

// quantile returns a quantile of sorted Latencies, in microseconds.
func (l Latencies) quantile(q float64) float64 {
	return float64(l[int(q*float64(len(l)-1)+0.5)].Nanoseconds()) / 1000
}

// repeat calls once until it succeeds: the server may not be listening yet. The process that
// started this one limits how long that may take.
func repeat(once func() error) {
	for once() != nil {
		time.Sleep(5 * time.Millisecond)
	}
}
