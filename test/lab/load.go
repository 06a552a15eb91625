// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

const (
	streams        = 100
	streamInterval = 100 * time.Millisecond // between the messages of one stream
	streamSize     = 64
	dialInterval   = 5 * time.Millisecond // between new connections
	dialers        = 4                    // threads that open them
)

// Load is traffic between two hosts that must not be disturbed: a hundred TCP streams with a thousand
// messages per second, a thousand datagrams per second and two hundred new connections per second, all
// echoed. Several of them leave a machine of two processors some time for what disturbs them.
type Load struct {
	server *Server
	before int64 // segments the server had retransmitted
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   sync.Once

	mu     sync.Mutex
	report Report
}

// Report is the result of a load. The times under "as programs saw it" include the time that
// the programs waited for a processor; the others do not.
type Report struct {
	Messages, Datagrams, Connections int           // echoed
	Transit                          time.Duration // longest one-way time of a datagram, in either direction
	Pause                            time.Duration // longest time between two sent datagrams: the load cannot detect what happens in it
	Lost                             int           // datagrams that were sent and did not arrive
	Retransmitted                    int           // segments
	Errors                           []string      // resets, failed connects, wrong echoes, failed measurements

	// As programs saw it.
	StreamGap   time.Duration // longest time a message took to come back
	DatagramGap time.Duration // longest time between two echoes
	ConnectTime time.Duration // longest time a new connection and one message took
}

func (r Report) String() string {
	const fine = 100 * time.Microsecond
	return fmt.Sprintf("%d messages, %d datagrams (longest under way %v, %d lost, longest pause %v), %d connections, %d segments sent again, %d errors; programs saw %v, %v, %v",
		r.Messages, r.Datagrams, r.Transit.Round(fine/10), r.Lost, r.Pause.Round(fine), r.Connections, r.Retransmitted, len(r.Errors),
		r.StreamGap.Round(fine), r.DatagramGap.Round(fine), r.ConnectTime.Round(fine))
}

// Disturbances lists what must not happen to a load.
func (r Report) Disturbances(longest time.Duration) []string {
	list := slices.Clone(r.Errors)
	if r.Lost > 0 {
		list = append(list, fmt.Sprintf("%d datagrams were lost", r.Lost))
	}
	if r.Retransmitted > 0 {
		list = append(list, fmt.Sprintf("%d segments were sent again", r.Retransmitted))
	}
	if r.Transit > longest {
		list = append(list, fmt.Sprintf("a datagram was under way for %v", r.Transit))
	}
	return list
}

// Path is what a load uses: from a client to an address where a server answers. A server handles one load at a
// time.
type Path struct {
	Client  *world.Host
	Server  *Server
	Address string
}

// rising is how long a load takes to reach its full rate.
const rising = 500 * time.Millisecond

// StartLoad starts a load from client to an address where server answers. It has reached its full rate when
// StartLoad returns.
func (l *Lab) StartLoad(name string, client *world.Host, server *Server, address string) *Load {
	l.Helper()
	return l.StartLoads(map[string]Path{name: {Client: client, Server: server, Address: address}})[name]
}

// StartLoads starts a load for each path, by name. All have reached their full rate when it returns.
func (l *Lab) StartLoads(paths map[string]Path) map[string]*Load {
	l.Helper()
	loads := make(map[string]*Load, len(paths))
	for name, p := range paths {
		loads[name] = l.startLoad(name, p.Client, p.Server, p.Address)
	}
	time.Sleep(rising)
	return loads
}

func (l *Lab) startLoad(name string, client *world.Host, server *Server, address string) *Load {
	l.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &Load{server: server, before: server.retransmitted.Load(), cancel: cancel}
	l.Cleanup(func() { d.Stop() })
	for i := range streams {
		c, err := client.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", address)
		if err != nil {
			l.Fatalf("load %s: stream %d: %v", name, i, err)
		}
		d.wg.Go(func() { d.stream(ctx, c.(*net.TCPConn), time.Duration(i)*streamInterval/streams) })
	}
	c, err := client.Dial(net.Dialer{}, "udp", address)
	l.must(err)
	udp := c.(*net.UDPConn)
	l.must(server.requests.send(udp))
	l.must(server.replies.receive(udp))
	d.wg.Go(func() { d.datagrams(ctx, udp) })
	for range dialers {
		h, err := client.Enter(client.Name, client.NetNS())
		l.must(err)
		d.wg.Go(func() {
			defer h.Close()
			d.connections(ctx, h, address)
		})
	}
	return d
}

// Stop ends the load and returns its report.
func (d *Load) Stop() Report {
	d.stop.Do(func() {
		d.cancel()
		d.wg.Wait()
		d.server.settle()
		d.report.Retransmitted += int(d.server.retransmitted.Load() - d.before)
	})
	return d.report
}

func (d *Load) note(f func(r *Report)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.report)
}

func (d *Load) fail(format string, args ...any) {
	d.note(func(r *Report) {
		if len(r.Errors) < 20 {
			r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
		}
	})
}

// stream sends messages at a fixed rate and expects each back.
func (d *Load) stream(ctx context.Context, c *net.TCPConn, phase time.Duration) {
	defer c.Close()
	time.Sleep(phase)
	out, in := make([]byte, streamSize), make([]byte, streamSize)
	var count int
	var longest time.Duration
	for next := time.Now(); ctx.Err() == nil; next = next.Add(streamInterval) {
		time.Sleep(time.Until(next))
		binary.BigEndian.PutUint64(out, uint64(count))
		sent := time.Now()
		c.SetDeadline(sent.Add(10 * time.Second))
		if _, err := c.Write(out); err != nil {
			d.fail("stream: %v", err)
			break
		}
		if _, err := io.ReadFull(c, in); err != nil {
			d.fail("stream: %v", err)
			break
		}
		if string(in) != string(out) {
			d.fail("stream: wrong echo")
			break
		}
		count++
		longest = max(longest, time.Since(sent))
	}
	d.countRetransmissions(c)
	d.note(func(r *Report) {
		r.Messages += count
		r.StreamGap = max(r.StreamGap, longest)
	})
}

func (d *Load) countRetransmissions(c *net.TCPConn) {
	n, err := retransmissions(c)
	if err != nil {
		d.fail("connection: %v", err)
	}
	d.note(func(r *Report) { r.Retransmitted += n })
}

// datagrams sends datagrams at a fixed rate, and afterwards queries the kernel's timestamps
// of each.
func (d *Load) datagrams(ctx context.Context, c *net.UDPConn) {
	defer c.Close()
	var received atomic.Int64
	var longest time.Duration
	var wg sync.WaitGroup
	wg.Go(func() { longest = d.echoes(c, &received) })
	first := d.server.number.Load() + 1
	sent, err := d.server.requests.sendUntil(ctx, c, first)
	if err != nil {
		d.fail("send datagrams: %v", err)
	}
	for _, e := range sent.Errors {
		d.fail("datagram: %v", e)
	}
	last := d.server.number.Add(sent.Sent)
	for deadline := time.Now().Add(3 * time.Second); received.Load() < int64(sent.Sent) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	c.SetReadDeadline(time.Now())
	wg.Wait()
	if err := d.server.requests.collect(c); err != nil { // some may have waited for address resolution
		d.fail("collect what was sent: %v", err)
	}
	fate, err := d.server.judge(first, last)
	if err != nil {
		d.fail("judge datagrams: %v", err)
	}
	if fate.unknown > 0 {
		d.fail("%d datagrams were not sent back, or not measured", fate.unknown)
	}
	d.note(func(r *Report) {
		r.Datagrams, r.Transit, r.Pause, r.Lost, r.DatagramGap = int(received.Load()), fate.longest, fate.pause, fate.lost, longest
	})
}

// echoes counts the echoes, and returns the longest time between two.
func (d *Load) echoes(c *net.UDPConn, received *atomic.Int64) (longest time.Duration) {
	var last time.Time
	b := make([]byte, 2000)
	for {
		if _, err := c.Read(b); isTimeout(err) {
			return longest
		} else if err != nil {
			d.fail("datagram: %v", err)
			time.Sleep(datagramEvery)
			continue
		}
		now := time.Now()
		if received.Add(1) > 1 {
			longest = max(longest, now.Sub(last))
		}
		last = now
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// connections opens its share of the new connections.
func (d *Load) connections(ctx context.Context, h *world.Host, address string) {
	for next := time.Now(); ctx.Err() == nil; next = next.Add(dialers * dialInterval) {
		time.Sleep(time.Until(next))
		began := time.Now()
		if err := d.connectOnce(h, address); err != nil {
			d.fail("connection: %v", err)
			continue
		}
		took := time.Since(began)
		d.note(func(r *Report) {
			r.Connections++
			r.ConnectTime = max(r.ConnectTime, took)
		})
	}
}

func (d *Load) connectOnce(h *world.Host, address string) error {
	c, err := h.Dial(net.Dialer{Timeout: 5 * time.Second}, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 5))
	d.countRetransmissions(c.(*net.TCPConn))
	return err
}
