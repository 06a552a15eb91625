// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// patience is how long one exchange may take on an emulated machine.
const patience = 30 * time.Second

// service answers each line over TCP, and each datagram, with the address it came from.
type service struct {
	tcp net.Listener
	udp *net.UDPConn
}

// listen opens the service at a port of every address of the calling thread's network
// namespace.
func listen(port string) (*service, error) {
	tcp, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return nil, err
	}
	addr := net.UDPAddr{Port: tcp.Addr().(*net.TCPAddr).Port}
	udp, err := net.ListenUDP("udp", &addr)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return &service{tcp: tcp, udp: udp}, nil
}

// run answers for as long as the process lives.
func (s *service) run() error {
	go s.answerDatagrams()
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return err
		}
		go answerLines(c)
	}
}

func (s *service) answerDatagrams() {
	buf := make([]byte, 1)
	for {
		_, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		// The client detects a lost reply.
		_, _ = s.udp.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()+"\n"), from)
	}
}

func answerLines(c net.Conn) {
	defer c.Close()
	peer := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if _, err := fmt.Fprintln(c, peer); err != nil {
			return
		}
	}
}

// serve runs the service as a program.
func serve(port string) error {
	s, err := listen(port)
	if err != nil {
		return err
	}
	return s.run()
}

// conversation is a connection that queries the service repeatedly.
type conversation struct {
	net.Conn
	answers *bufio.Reader
}

func converse(network, addr string) (*conversation, error) {
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return nil, err
	}
	return &conversation{Conn: c, answers: bufio.NewReader(c)}, nil
}

// ask queries once, and returns the address that the service saw.
func (c *conversation) ask() (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c); err != nil {
		return "", err
	}
	answer, err := c.answers.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// ask queries once over a new connection or from a new socket.
func ask(network, addr string) (string, error) {
	c, err := converse(network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	answer, err := c.ask()
	if err != nil {
		return "", fmt.Errorf("ask %s %s: %w", network, addr, err)
	}
	return answer, nil
}
