// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Greet serves TCP connections on a host: a line with a name and the client's address, then an
// echo of each line.
func (l *Lab) Greet(h *world.Host, name string, port int) {
	l.Helper()
	listener, err := h.Listen("tcp", fmt.Sprintf(":%d", port))
	l.must(err)
	l.Cleanup(func() { listener.Close() })
	go ServeGreetings(listener, name)
}

// ServeGreetings serves connections as [Lab.Greet] does, until the listener is closed.
func ServeGreetings(listener net.Listener, name string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			from := netip.MustParseAddrPort(c.RemoteAddr().String())
			fmt.Fprintln(c, name, from.Addr().Unmap())
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintln(c, lines.Text())
			}
		}()
	}
}

// Greeted is a connection to such a server.
type Greeted struct {
	net.Conn
	Name, Client string // the server's name, and the client's address as the server saw it
	in           *bufio.Reader
}

// Greeting connects to such a server.
func Greeting(h *world.Host, address string, port int) (*Greeted, error) {
	return GreetingFrom(h, 0, address, port)
}

// GreetingFrom connects from a port that other connections may have, to other servers.
func GreetingFrom(h *world.Host, local int, address string, port int) (*Greeted, error) {
	d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{Port: local}, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		failed := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		return errors.Join(failed, err)
	}}
	c, err := h.Dial(d, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return nil, err
	}
	g := &Greeted{Conn: c, in: bufio.NewReader(c)}
	line, err := g.next()
	if err == nil {
		_, err = fmt.Sscan(line, &g.Name, &g.Client)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return g, nil
}

// Repeated returns how many segments the client has sent again, from its first SYN on.
func (g *Greeted) Repeated() (int, error) {
	c, ok := g.Conn.(*net.TCPConn)
	if !ok {
		return 0, fmt.Errorf("%T has no segments", g.Conn)
	}
	return retransmissions(c)
}

// Works reports whether the connection still echoes.
func (g *Greeted) Works() error {
	const question = "still there?"
	if _, err := fmt.Fprintln(g, question); err != nil {
		return err
	}
	line, err := g.next()
	if err == nil && line != question {
		err = fmt.Errorf("echo of something else: %q", line)
	}
	return err
}

// Finish closes a connection, and waits for the other end if it is one of TCP. Its socket is in TIME-WAIT then, from which the kernel
// lets another one have the same ports, which it does not while it awaits a FIN.
func Finish(c net.Conn) error {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.CloseWrite()
		tcp.SetReadDeadline(time.Now().Add(Patient))
		io.Copy(io.Discard, tcp)
	}
	return c.Close()
}

// next returns the next line that arrives.
func (g *Greeted) next() (string, error) {
	if err := g.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	line, err := g.in.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}
