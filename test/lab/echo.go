// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
)

// Server echoes what it receives, TCP and UDP, and records how the datagrams fared on the
// way.
type Server struct {
	requests, replies *leg
	number            atomic.Uint64 // of the last datagram of a load

	open          atomic.Int64 // connections
	retransmitted atomic.Int64 // segments, in closed connections
}

// Echo starts a Server on a host's port, on every address.
func (l *Lab) Echo(host *world.Host, port int) *Server {
	l.Helper()
	s := new(Server)
	for _, g := range []**leg{&s.requests, &s.replies} {
		var err error
		*g, err = newLeg()
		l.must(err)
		l.Cleanup(func() { (*g).close() })
	}
	address := fmt.Sprintf(":%d", port)
	tcp, err := host.Listen("tcp", address)
	l.must(err)
	packets, err := host.ListenPacket("udp", address)
	l.must(err)
	udp := packets.(*net.UDPConn)
	l.must(s.requests.receive(udp))
	l.must(s.replies.send(udp))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			s.open.Add(1)
			go s.stream(c.(*net.TCPConn)) // ends with the client
		}
	})
	wg.Go(func() { s.datagrams(udp) })
	l.Cleanup(func() {
		tcp.Close()
		udp.Close()
		wg.Wait()
	})
	return s
}

func (s *Server) stream(c *net.TCPConn) {
	defer s.open.Add(-1)
	defer c.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := c.Read(b)
		if err == nil {
			_, err = c.Write(b[:n])
		}
		if err != nil {
			n, _ := retransmissions(c) // fails only when the test has ended
			s.retransmitted.Add(int64(n))
			return
		}
	}
}

func (s *Server) datagrams(c *net.UDPConn) {
	b := make([]byte, 2000)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from)
		s.replies.collect(c) // missing ones are detected because they are counted
	}
}

// retransmissions returns the number of segments of a connection that this end retransmitted,
// including its SYN. Segments that the other end had already received do not count: they were
// sent too early, because a program was late with its answer.
func retransmissions(c *net.TCPConn) (n int, err error) {
	err = control(c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("get TCP_INFO: %w", err)
		}
		n = max(0, int(info.Total_retrans)-int(info.Dsack_dups))
		return nil
	})
	return n, err
}

// settle waits until the ends of all connections are counted.
func (s *Server) settle() {
	for deadline := time.Now().Add(5 * time.Second); s.open.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
}

// fate holds what happened to datagrams in both directions.
type fate struct {
	longest time.Duration // one-way time
	pause   time.Duration // longest between two that were sent
	lost    int
	unknown int // without a send time: not sent back, or not measured
}

// judge returns the fate of the datagrams with numbers from first to last.
func (s *Server) judge(first, last uint64) (f fate, err error) {
	var before int64
	for number := first; number <= last; number++ {
		for _, g := range []*leg{s.requests, s.replies} {
			left, arrived, err := g.times(number)
			if err != nil {
				return f, err
			}
			if left == 0 {
				f.unknown++
				break
			}
			if g == s.requests {
				if before > 0 {
					f.pause = max(f.pause, time.Duration(left-before))
				}
				before = left
			}
			if arrived == 0 {
				f.lost++
				break
			}
			f.longest = max(f.longest, time.Duration(arrived-left))
		}
	}
	return f, nil
}

// ControlAddress is where a client made by NewControl reaches its server.
const ControlAddress = "10.255.0.1:7"

// NewControl makes two hosts without Fairlead, connected by a plain veth pair. A load between
// them shows what this machine does to any traffic.
func (l *Lab) NewControl() (client *world.Host, server *Server) {
	l.Helper()
	far, client := l.NewHost("control server"), l.NewHost("control client")
	l.must(world.Cable(
		world.End{Host: far, Device: "eth0", Addresses: []string{"10.255.0.1/24"}},
		world.End{Host: client, Device: "eth0", Addresses: []string{"10.255.0.2/24"}},
	))
	return client, l.Echo(far, 7)
}
