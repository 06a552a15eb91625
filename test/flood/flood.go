// SPDX-License-Identifier: Apache-2.0

// Package flood loads a host's table of flows through a published port, with real sockets, and says what became of
// connections beside the load. The same loads run through Fairlead (test/scenario) and through a bridge with Docker's
// rules in netfilter (test/kernels), which shows what they do.
package flood

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Way is the path that a load takes.
type Way struct {
	Client *world.Host
	// To is the published address of a server that answers each line over TCP, and each datagram.
	To netip.AddrPort
	// Sources are addresses of the client, which the host has a route to.
	Sources netip.Prefix
	Room    int // flows that the host's table has room for
	// Groups is how many groups the flows of Lasting are opened in: those that do not last yet may have less room.
	Groups int
}

// Load is a kind of load.
type Load string

const (
	// Answered is of UDP flows with one packet each way.
	Answered Load = "answered"
	// Lasting is of UDP flows with packets each way for two seconds or more, which connection tracking keeps.
	Lasting Load = "lasting"
	// Connections is of connections only, as many as are accepted.
	Connections Load = "connections"
)

// Outcome is what became of connections. Those of Before were opened before the load, and those of Opened during it.
type Outcome struct {
	Before, BeforeLive int // how many there were, and how many of them still work
	Tried              int
	Opened, OpenedLive int
}

func (o Outcome) String() string {
	return fmt.Sprintf("%d of %d older connections work, %d of %d new ones were accepted, and %d of these work",
		o.BeforeLive, o.Before, o.Opened, o.Tried, o.OpenedLive)
}

const (
	connections = 50
	burst       = 32                     // datagrams that wait for their answers together
	patience    = 200 * time.Millisecond // how long
	refusal     = 5 * time.Second        // how long a connection may take, also in an emulator on a busy machine
	// lasts is when connection tracking begins to keep a UDP flow that both sides use: after two seconds, for Fairlead
	// whole ones.
	lasts = 3100 * time.Millisecond
)

// Run loads the path.
func (w Way) Run(l Load) (o Outcome, retErr error) {
	if err := w.Client.IP(fmt.Sprintf("route replace local %v dev lo", w.Sources)); err != nil {
		return o, err
	}
	u, err := w.datagrams()
	if err != nil {
		return o, err
	}
	defer func() { retErr = errors.Join(retErr, u.Close()) }()
	var before, opened []*connection
	defer func() {
		for _, c := range append(before, opened...) {
			c.Close()
		}
	}()
	more := func() error { return u.send(w.Room / 16) }
	count := connections
	if l == Connections {
		more, count = func() error { return nil }, w.Room
	}
	for range connections {
		c, err := w.connect()
		if err != nil {
			return o, fmt.Errorf("connect before the load: %w", err)
		}
		before = append(before, c)
	}
	switch l {
	case Answered:
		err = u.send(2 * w.Room)
	case Lasting: // all that there is room for, so that none is evicted before it has lasted
		group := (w.Room - connections) / w.Groups
		for i := 0; i < w.Groups && err == nil; i++ {
			err = errors.Join(u.send(group), u.again(group))
		}
	}
	if err != nil {
		return o, err
	}
	for o.Tried < count && o.Tried == len(opened) { // until one is refused
		o.Tried++
		c, err := w.connect()
		var refused net.Error
		switch {
		case err == nil:
			opened = append(opened, c)
		case !errors.As(err, &refused) || !refused.Timeout():
			return o, fmt.Errorf("connect beside the load: %w", err)
		}
		if err := more(); err != nil {
			return o, err
		}
	}
	if l != Connections {
		if err := u.send(w.Room); err != nil {
			return o, err
		}
	}
	o.Before, o.BeforeLive = len(before), live(before)
	o.Opened, o.OpenedLive = len(opened), live(opened)
	return o, nil
}

// connection is one to the server.
type connection struct {
	net.Conn
	answers *bufio.Reader
}

func (w Way) connect() (*connection, error) {
	c, err := w.Client.Dial(net.Dialer{Timeout: refusal, KeepAlive: -1}, "tcp", w.To.String())
	if err != nil {
		return nil, err
	}
	// It ends with a RST: the rest of an orderly end would come after the table was emptied for the next load.
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &connection{c, bufio.NewReader(c)}, nil
}

// live returns how many connections work.
func live(all []*connection) (n int) {
	for _, c := range all {
		if c.ask() == nil {
			n++
		}
	}
	return n
}

func (c *connection) ask() error {
	if err := c.SetDeadline(time.Now().Add(refusal)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	_, err := c.answers.ReadString('\n')
	return err
}

// datagrams is one socket whose datagrams have many sources.
type datagrams struct {
	*net.UDPConn
	way     Way
	next    netip.Addr
	answers chan struct{}
}

func (w Way) datagrams() (*datagrams, error) {
	network := "udp4"
	if w.To.Addr().Is6() {
		network = "udp6"
	}
	c, err := w.Client.ListenPacket(network, ":0")
	if err != nil {
		return nil, err
	}
	u := &datagrams{c.(*net.UDPConn), w, w.Sources.Addr(), make(chan struct{}, burst)}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	failed := raw.Control(func(fd uintptr) {
		if network == "udp6" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
	if err := errors.Join(failed, err); err != nil {
		return nil, errors.Join(fmt.Errorf("use sources that are on no device: %w", err), u.Close())
	}
	go u.receive()
	return u, nil
}

// receive ends when the socket is closed.
func (u *datagrams) receive() {
	for b := make([]byte, 64); ; {
		if _, err := u.Read(b); err != nil {
			return
		}
		select {
		case u.answers <- struct{}{}:
		default: // nobody waits for it any more
		}
	}
}

// again sends a datagram of each of the last n sources, when their flows have lasted for long enough.
func (u *datagrams) again(n int) error {
	time.Sleep(lasts)
	for range n {
		u.next = u.next.Prev()
	}
	return u.send(n)
}

// send sends a datagram of each of the next n sources, and receives the answers that there are.
func (u *datagrams) send(n int) error {
	for n > 0 {
		some := min(n, burst)
		n -= some
		for range some {
			u.next = u.next.Next()
			if _, _, err := u.WriteMsgUDPAddrPort([]byte("?"), from(u.next), u.way.To); err != nil {
				return fmt.Errorf("send from %v: %w", u.next, err)
			}
		}
		for end := time.After(patience); some > 0; some-- {
			select {
			case <-u.answers:
				continue
			case <-end:
			}
			break
		}
	}
	return nil
}

// from is the control message that chooses a source.
func from(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}
