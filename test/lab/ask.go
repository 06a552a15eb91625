// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// How long a reply may take: on a busy machine each program on the way waits for its turn, so
// an expected reply gets a long time. Brief is for replies that must not come, and for what
// is tried again.
const (
	Patient = 20 * time.Second
	Brief   = 500 * time.Millisecond
)

// resendEvery is longer than a program takes that socat starts for a reply.
const resendEvery = 700 * time.Millisecond

// Reach expects an echo over a new TCP connection or of a datagram; connecting and the echo
// may take within each.
func (l *Lab) Reach(within time.Duration, h *world.Host, network, address string, port int) error {
	at := net.JoinHostPort(address, fmt.Sprint(port))
	c, err := h.Dial(net.Dialer{Timeout: within}, network, at)
	if err != nil {
		return fmt.Errorf("from %s: %w", h.Name, err)
	}
	defer c.Close()
	every := within // TCP retransmits by itself
	if _, datagrams := c.(*net.UDPConn); datagrams {
		every = within / 5
	}
	got, err := exchange(c, every, within)
	if err != nil {
		return fmt.Errorf("from %s to %s: %w", h.Name, at, err)
	}
	if got != "hello" {
		return fmt.Errorf("from %s to %s: got %q", h.Name, at, got)
	}
	return nil
}

// exchange sends hello at an interval until there is a reply, which it returns, or the time
// is over. A refusal does not count as a reply: the server may be about to start.
func exchange(c net.Conn, every, within time.Duration) (string, error) {
	b := make([]byte, 1500)
	deadline := time.Now().Add(within)
	for {
		next := time.Now().Add(every)
		c.SetDeadline(next)
		_, err := c.Write([]byte("hello"))
		if err == nil {
			var n int
			if n, err = c.Read(b); err == nil {
				return string(b[:n]), nil
			}
		}
		if !next.Before(deadline) {
			return "", err
		}
		time.Sleep(time.Until(next))
	}
}

// Ask sends datagrams until one is answered, and expects the reply that UDP sends.
func (l *Lab) Ask(h *world.Host, address string, port int, name, client string) {
	l.Helper()
	got, err := l.ask(h, address, port, Patient)
	fields := strings.Fields(got)
	if len(fields) != 3 || fields[0] != name || fields[2] != "hello" ||
		(client != "" && strings.Trim(fields[1], "[]") != Expand(client)) {
		l.Errorf("%s: datagram to %s port %d: got %q, %v; want an answer by %s to %s", h.Name, address, port, got, err, name, client)
	}
}

// NoAsk expects no reply to two datagrams.
func (l *Lab) NoAsk(h *world.Host, address string, port int) {
	l.Helper()
	if got, err := l.ask(h, address, port, 2*resendEvery); err == nil {
		l.Errorf("%s: datagram to %s port %d was answered: %q", h.Name, address, port, got)
	}
}

func (l *Lab) ask(h *world.Host, address string, port int, within time.Duration) (string, error) {
	c, err := h.Dial(net.Dialer{}, "udp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return exchange(c, resendEvery, within)
}

// Expand formats an address as socat does: IPv6 in full.
func Expand(address string) string {
	if a := Address(address); a.Is6() {
		return a.StringExpanded()
	}
	return address
}
