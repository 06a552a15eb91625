// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/cmd/fairlead/world"
)

const (
	streams        = 100
	streamInterval = 25 * time.Millisecond // between the messages of one stream
	streamSize     = 64
	dialInterval   = 5 * time.Millisecond // between new connections
	dialers        = 4                    // threads that make them
	datagramEvery  = time.Millisecond
)

// Load is traffic between two hosts that must not be disturbed: a hundred TCP
// streams, a thousand datagrams and two hundred new connections a second, all
// echoed.
type Load struct {
	name   string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	report Report
}

// Report is what became of a load.
type Report struct {
	Messages, Datagrams, Connections int           // echoed
	Lost                             int           // datagrams without an echo
	StreamGap                        time.Duration // longest time a message took to come back
	DatagramGap                      time.Duration // longest time between two echoes
	ConnectTime                      time.Duration // longest time a new connection and one message took
	Errors                           []string      // resets, failed connects, wrong echoes

	stalls map[string][]stall // by kind of traffic
}

func (r Report) String() string {
	return fmt.Sprintf("%d messages (longest %v), %d datagrams (%d lost, longest gap %v), %d connections (longest %v), %d errors",
		r.Messages, r.StreamGap.Round(100*time.Microsecond), r.Datagrams, r.Lost, r.DatagramGap.Round(100*time.Microsecond),
		r.Connections, r.ConnectTime.Round(100*time.Microsecond), len(r.Errors))
}

// Echo serves a load on server's port, on every address, TCP and UDP.
func (l *Lab) Echo(server *world.Host, port int) {
	l.Helper()
	address := fmt.Sprintf(":%d", port)
	tcp, err := server.Listen("tcp", address)
	l.must(err)
	udp, err := server.ListenPacket("udp", address)
	l.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the client
				defer c.Close()
				b := make([]byte, 16<<10)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	})
	wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo(b[:n], from)
		}
	})
	l.Cleanup(func() {
		tcp.Close()
		udp.Close()
		wg.Wait()
	})
}

// StartLoad starts a load from client to an address where Echo answers. It has
// reached its full rate when StartLoad returns.
func (l *Lab) StartLoad(name string, client *world.Host, address string) *Load {
	l.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &Load{name: name, cancel: cancel}
	l.Cleanup(func() { d.Stop() })
	for i := range streams {
		c, err := client.Dial(net.Dialer{Timeout: 3 * time.Second}, "tcp", address)
		if err != nil {
			l.Fatalf("load %s: stream %d: %v", name, i, err)
		}
		d.wg.Go(func() { d.stream(ctx, c, time.Duration(i)*streamInterval/streams) })
	}
	c, err := client.Dial(net.Dialer{}, "udp", address)
	l.must(err)
	d.wg.Go(func() { d.datagrams(ctx, c) })
	for range dialers {
		h, err := client.Enter(client.Name, client.NetNS())
		l.must(err)
		d.wg.Go(func() {
			defer h.Close()
			d.connections(ctx, h, address)
		})
	}
	time.Sleep(500 * time.Millisecond)
	return d
}

// Stop ends the load and returns what became of it.
func (d *Load) Stop() Report {
	d.cancel()
	d.wg.Wait()
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

// stream sends a message at a fixed rate and wants each back.
func (d *Load) stream(ctx context.Context, c net.Conn, phase time.Duration) {
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
		took := time.Since(sent)
		longest = max(longest, took)
		d.stalled("message", sent, took)
	}
	d.note(func(r *Report) {
		r.Messages += count
		r.StreamGap = max(r.StreamGap, longest)
	})
}

// datagrams sends them at a fixed rate and measures the gaps between the echoes.
func (d *Load) datagrams(ctx context.Context, c net.Conn) {
	var sent uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 8)
		for next := time.Now(); ctx.Err() == nil; next = next.Add(datagramEvery) {
			time.Sleep(time.Until(next))
			binary.BigEndian.PutUint64(b, sent)
			if _, err := c.Write(b); err != nil {
				d.fail("datagram: %v", err)
			}
			sent++
		}
		time.Sleep(200 * time.Millisecond) // for the last ones
		c.SetReadDeadline(time.Now())
	})
	var received int
	var longest time.Duration
	var last time.Time
	b := make([]byte, 2000)
	for {
		if _, err := c.Read(b); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			break
		} else if err != nil {
			d.fail("datagram: %v", err)
			time.Sleep(datagramEvery)
			continue
		}
		now := time.Now()
		if received++; received > 1 {
			longest = max(longest, now.Sub(last))
			d.stalled("datagram", last, now.Sub(last))
		}
		last = now
	}
	wg.Wait()
	c.Close()
	d.note(func(r *Report) { r.Datagrams, r.Lost, r.DatagramGap = received, int(sent)-received, longest })
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// connections makes its share of the new ones.
func (d *Load) connections(ctx context.Context, h *world.Host, address string) {
	for next := time.Now(); ctx.Err() == nil; next = next.Add(dialers * dialInterval) {
		time.Sleep(time.Until(next))
		began := time.Now()
		if err := connectOnce(h, address); err != nil {
			d.fail("connection: %v", err)
			continue
		}
		took := time.Since(began)
		d.stalled("connection", began, took)
		d.note(func(r *Report) {
			r.Connections++
			r.ConnectTime = max(r.ConnectTime, took)
		})
	}
}

func connectOnce(h *world.Host, address string) error {
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
	return err
}
