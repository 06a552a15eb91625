// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

const (
	measuring = 800 * time.Millisecond
	// tolerance is how far a measured rate may be from the limit, headers included.
	tolerance = 0.2
	// patience is for a machine too busy to send as fast as it might.
	patience = 30 * time.Second

	datagram     = 1200
	datagramRate = 2 * egressRate
	datagramTick = 5 * time.Millisecond
)

// flow is as much data as passes from a client to a server that waits for it.
type flow struct {
	network        string // tcp or udp
	client, server *world.Host
	address        string // of the server, as the client knows it
	port           int    // at both
	back           bool   // the server sends
}

// passesAt wants the flow to be as fast as a limit says. A busy machine may be slower for a
// while; nothing makes a limit be exceeded.
func (f flow) passesAt(t *testing.T, limit float64) {
	t.Helper()
	f.until(t, func(rate float64) error {
		switch {
		case rate > limit*(1+tolerance):
			t.Fatalf("%v: %.1f Mbit/s, faster than the limit of %.0f", f, rate/1e6, limit/1e6)
		case rate < limit*(1-tolerance):
			return fmt.Errorf("%.1f Mbit/s, slower than the limit of %.0f", rate/1e6, limit/1e6)
		}
		t.Logf("%v: %.1f Mbit/s with a limit of %.0f", f, rate/1e6, limit/1e6)
		return nil
	})
}

// exceeds wants it to be faster than that.
func (f flow) exceeds(t *testing.T, rate float64) {
	t.Helper()
	f.until(t, func(got float64) error {
		if got < rate {
			return fmt.Errorf("%.1f Mbit/s, want at least %.0f", got/1e6, rate/1e6)
		}
		return nil
	})
}

// until measures until a rate is right.
func (f flow) until(t *testing.T, right func(rate float64) error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		rate, err := f.measure()
		if err == nil {
			err = right(rate)
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %v", f, err)
		}
		t.Logf("%v: again, because of %v", f, err)
	}
}

// String is for messages.
func (f flow) String() string {
	from, to := f.client.Name, f.server.Name
	if f.back {
		from, to = to, from
	}
	return fmt.Sprintf("%s from %s to %s", f.network, from, to)
}

// measure returns the rate at which data arrives, in bits per second, beyond what a limit
// lets pass at once.
func (f flow) measure() (float64, error) {
	from, to, end, err := f.open()
	if err != nil {
		return 0, err
	}
	defer end()
	start := time.Now()
	go f.send(from) // until end
	to.SetReadDeadline(start.Add(measuring))
	arrived, b := 0, make([]byte, 64<<10)
	for {
		n, err := to.Read(b)
		arrived += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return float64(8*arrived-limitBurst) / time.Since(start).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// keep sends until it is stopped.
func (f flow) keep(t *testing.T) (stop func()) {
	t.Helper()
	from, to, end, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	go f.send(from)
	go io.Copy(io.Discard, to)
	return end
}

// open connects the two ends.
func (f flow) open() (from, to net.Conn, end func(), err error) {
	connect := f.stream
	if f.network == "udp" {
		connect = f.datagrams
	}
	client, server, err := connect(fmt.Sprintf(":%d", f.port), net.JoinHostPort(f.address, fmt.Sprint(f.port)))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%v: %w", f, err)
	}
	end = func() {
		client.Close()
		server.Close()
	}
	if f.back {
		return server, client, end, nil
	}
	return client, server, end, nil
}

func (f flow) stream(listen, dial string) (client, server net.Conn, err error) {
	l, err := f.server.Listen("tcp", listen)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = f.client.Dial(net.Dialer{Timeout: patience}, "tcp", dial); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		client.Close()
	}
	return client, server, err
}

func (f flow) datagrams(listen, dial string) (client, server net.Conn, err error) {
	l, err := f.server.ListenPacket("udp", listen)
	if err != nil {
		return nil, nil, err
	}
	if client, err = f.client.Dial(net.Dialer{}, "udp", dial); err == nil {
		var peer net.Addr
		if peer, err = greet(client, l); err == nil {
			return client, &answering{l.(*net.UDPConn), peer}, nil
		}
		client.Close()
	}
	l.Close()
	return nil, nil, err
}

// greet sends until that arrives, and returns whom it is from. What an earlier flow left in
// a queue may come first.
func greet(client net.Conn, server net.PacketConn) (peer net.Addr, err error) {
	const hello = "hello"
	b := make([]byte, datagram)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err = client.Write([]byte(hello)); err != nil {
			return nil, err
		}
		server.SetReadDeadline(time.Now().Add(lab.Brief))
		for n := 0; err == nil; {
			if n, peer, err = server.ReadFrom(b); string(b[:n]) == hello {
				return peer, nil
			}
		}
	}
	return nil, err
}

// answering is a socket that sends to the first client that sent to it.
type answering struct {
	*net.UDPConn
	peer net.Addr
}

func (a *answering) Write(b []byte) (int, error) { return a.WriteTo(b, a.peer) }

// send sends until the connection is closed: a stream as fast as it goes, datagrams
// faster than any limit.
func (f flow) send(c net.Conn) {
	if f.network == "tcp" {
		for b := make([]byte, 64<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	ticker := time.NewTicker(datagramTick)
	defer ticker.Stop()
	perTick := int(datagramRate * datagramTick.Seconds() / 8 / datagram)
	for b := make([]byte, datagram); ; <-ticker.C {
		for range perTick {
			if _, err := c.Write(b); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}
}
