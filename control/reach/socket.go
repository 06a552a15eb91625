// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/control/model"
)

const (
	// magic begins the data of a probe: "flrp".
	magic = 0x666c7270
	// minData is how many bytes of data a probe has: magic and nonce.
	minData    = 4 + 8
	icmpHeader = 8
	smallest   = icmpHeader + minData // of an ICMP message, in bytes
)

var ipHeader = [...]int{model.V4: ipv4.HeaderLen, model.V6: ipv6.HeaderLen}

var errClosed = net.ErrClosed

// socket sends and receives probes of one family.
type socket struct {
	family model.Family
	conn   *net.IPConn
	v4     *ipv4.PacketConn
	v6     *ipv6.PacketConn
	buf    []byte
}

// message is a probe or an answer that arrived.
type message struct {
	request bool
	from    netip.Addr
	size    int // of the ICMP message, in bytes
	nonce   uint64
}

func newSocket(f model.Family) (*socket, error) {
	network, address := "ip4:icmp", "0.0.0.0"
	if f == model.V6 {
		network, address = "ip6:ipv6-icmp", "::"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = neverFragment(f, int(fd)) })
		return errors.Join(ctlErr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	s := &socket{family: f, conn: conn.(*net.IPConn), buf: make([]byte, 1<<16)}
	if f == model.V4 {
		s.v4 = ipv4.NewPacketConn(s.conn)
		err = s.v4.SetBPF(filter(f))
	} else {
		s.v6 = ipv6.NewPacketConn(s.conn)
		err = s.v6.SetBPF(filter(f))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the socket's filter: %w", err), conn.Close())
	}
	return s, nil
}

// neverFragment has the kernel send large probes whole or not at all, whatever it knows of the path's MTU.
func neverFragment(f model.Family, fd int) error {
	if f == model.V4 {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
	}
	return errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)),
	)
}

// filter passes probes and answers to them. The socket would receive all ICMP messages to this host. With IPv4,
// it sees the IP header.
func filter(f model.Family) []bpf.RawInstruction {
	begin := []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	if f == model.V4 {
		begin = []bpf.Instruction{bpf.LoadMemShift{Off: 0}}
	}
	program, err := bpf.Assemble(append(begin,
		bpf.LoadIndirect{Off: icmpHeader, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: magic, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	))
	if err != nil {
		panic(err) // it is constant
	}
	return program
}

// send sends a probe of size bytes, with the IP header, or of the least size.
func (s *socket) send(from, to netip.Addr, size int, nonce uint64) error {
	data := make([]byte, max(minData, size-ipHeader[s.family]-icmpHeader))
	binary.BigEndian.PutUint32(data, magic)
	binary.BigEndian.PutUint64(data[4:], nonce)
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: int(nonce & 0xffff), Data: data}}
	if s.family == model.V6 {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil) // the kernel computes the checksum of ICMPv6
	if err != nil {
		return err
	}
	dst := &net.IPAddr{IP: to.AsSlice()}
	if s.family == model.V4 {
		_, err = s.v4.WriteTo(b, &ipv4.ControlMessage{Src: from.AsSlice()}, dst)
	} else {
		_, err = s.v6.WriteTo(b, &ipv6.ControlMessage{Src: from.AsSlice()}, dst)
	}
	return err
}

// receive waits for a message.
func (s *socket) receive() (message, error) {
	for {
		n, src, err := s.conn.ReadFromIP(s.buf)
		if err != nil {
			return message{}, err
		}
		from, ok := netip.AddrFromSlice(src.IP)
		if m, parsed := parse(s.family, s.buf[:n]); ok && parsed {
			m.from = from.Unmap()
			return m, nil
		}
	}
}

// parse reads an ICMP message.
func parse(f model.Family, b []byte) (m message, ok bool) {
	if len(b) < smallest || binary.BigEndian.Uint32(b[icmpHeader:]) != magic {
		return m, false
	}
	m.size, m.nonce = len(b), binary.BigEndian.Uint64(b[icmpHeader+4:])
	switch {
	case f == model.V4 && b[0] == byte(ipv4.ICMPTypeEcho), f == model.V6 && b[0] == byte(ipv6.ICMPTypeEchoRequest):
		m.request = true
	case f == model.V4 && b[0] == byte(ipv4.ICMPTypeEchoReply), f == model.V6 && b[0] == byte(ipv6.ICMPTypeEchoReply):
	default:
		return m, false
	}
	return m, true
}

// Close closes the socket, and ends a receive that waits.
func (s *socket) Close() error { return s.conn.Close() }
