// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/bench/world"
	"github.com/fairlead-net/fairlead/test/lab"
)

// port sends and receives the frames of eth0 of a node.
type port struct {
	fd      int
	ifindex int
}

// ourMark lets a frame out of a node that is mute. It does not leave the namespace.
const ourMark = 0xf1

const allProtocols = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order

func newPort(l *lab.Lab, h *world.Host) *port {
	l.Helper()
	p := &port{}
	check(l, h.Do(func() error { return p.open("eth0") }))
	return p
}

func (p *port) open(device string) error {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	p.ifindex = dev.Index
	p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, allProtocols)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	for _, option := range []int{unix.PACKET_AUXDATA, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(p.fd, unix.SOL_PACKET, option, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_MARK, ourMark); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("bind", unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: p.ifindex}))
}

func (p *port) close() { unix.Close(p.fd) }

func (p *port) send(frame []byte) error {
	err := unix.Sendto(p.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.ifindex, Halen: 6})
	if err != nil {
		return fmt.Errorf("send frame %x: %w", frame, err)
	}
	return nil
}

// receive returns the next frame, with the tag that the kernel took off in its place; nil: there is none. unsummed: its
// checksum was left to a card that is none.
func (p *port) receive() (frame []byte, unsummed bool, err error) {
	b, oob := make([]byte, 9200), make([]byte, 128)
	n, noob, _, _, err := unix.Recvmsg(p.fd, b, oob, 0)
	if errors.Is(err, unix.EAGAIN) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:noob])
	if err != nil {
		return nil, false, fmt.Errorf("parse control messages: %w", err)
	}
	b = b[:n]
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		// struct tpacket_auxdata: status, length, captured length, two offsets, TCI, TPID
		status := binary.NativeEndian.Uint32(m.Data)
		unsummed = status&unix.TP_STATUS_CSUMNOTREADY != 0
		if status&unix.TP_STATUS_VLAN_VALID != 0 && n >= 12 {
			taken := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
			taken = binary.BigEndian.AppendUint16(taken, binary.NativeEndian.Uint16(m.Data[16:]))
			b = slices.Insert(b, 12, taken...)
		}
	}
	return b, unsummed, nil
}

// barrier knows when the kernel has processed all frames sent before. A processor works through the
// packets that its veth devices hand over in order, so what a frame becomes at one more device comes before a frame
// that is sent after the first barrier, and so on for each device on its way.
type barrier struct{ from, to *port }

// devices are more than any packet passes, counting the answer that it may provoke.
const devices = 8

func newBarrier(l *lab.Lab) *barrier {
	l.Helper()
	a, b := l.NewHost("barrier"), l.NewHost("barrier")
	check(l, world.Cable(world.End{Host: a, Device: "eth0"}, world.End{Host: b, Device: "eth0"}))
	for _, h := range []*world.Host{a, b} {
		l.Must(h, "nft", "-f", l.Write("mute.nft", mute))
	}
	w := &barrier{newPort(l, a), newPort(l, b)}
	l.Cleanup(func() { w.from.close(); w.to.close() })
	return w
}

func (w *barrier) wait() error {
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0x88, 0xb5})
	for range devices {
		if err := w.from.send(frame); err != nil {
			return err
		}
		for {
			ready := []unix.PollFd{{Fd: int32(w.to.fd), Events: unix.POLLIN}}
			n, err := unix.Poll(ready, 10000)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n != 1 {
				return fmt.Errorf("the barrier's frame does not arrive: %w", err)
			}
			got, _, err := w.to.receive()
			if err != nil {
				return err
			}
			if got != nil {
				break
			}
		}
	}
	return nil
}

// onOneProcessor keeps the calling goroutine on one, for the barrier.
func onOneProcessor() (restore func(), err error) {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, os.NewSyscallError("sched_setaffinity", err)
	}
	return func() {
		unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	}, nil
}

// socket is one of the host's own.
type socket struct {
	fd    int
	proto byte
}

// connect makes a socket of the host that connects to a flow's destination from its port.
func (w *twin) connect(k int, f *flow) error {
	if old := w.sockets[k]; old != nil {
		return nil
	}
	s := &socket{proto: f.Proto}
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if f.Dst.Is6() {
		family = unix.AF_INET6
	}
	if f.Proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	err := w.host.Do(func() (err error) {
		s.fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return err
	}
	w.sockets[k] = s
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if f.Proto == unix.IPPROTO_TCP { // a socket that is closed says so at once, and leaves nothing
		if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(unspecified(f.Dst), f.Sport))); err != nil {
		return nil // the port is taken: the program's own fault
	}
	// Errors show in the socket's state, or what it does not send.
	if unix.Connect(s.fd, sockaddr(netip.AddrPortFrom(f.Dst, f.Dport))) == nil && f.Proto == unix.IPPROTO_UDP {
		unix.Write(s.fd, []byte("hello"))
	}
	return nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// said is what happened at a socket since it was asked last.
func (s *socket) said() string {
	b := make([]byte, 2048)
	var got string
	for {
		n, err := unix.Read(s.fd, b)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOTCONN) || (err == nil && n == 0) {
			break
		}
		if err != nil {
			got += " " + err.Error()
			break
		}
		got += fmt.Sprintf(" %q", b[:n])
	}
	if s.proto == unix.IPPROTO_TCP {
		info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			got += fmt.Sprintf(" state %d", info.State)
		}
	}
	return got
}

// alive says whether a socket is open and, with TCP, its connection has not ended.
func (s *socket) alive() bool {
	if s == nil || s.proto != unix.IPPROTO_TCP {
		return s != nil
	}
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State != 7 // TCP_CLOSE
}

func (w *twin) closeSocket(k int) {
	if s := w.sockets[k]; s != nil {
		unix.Close(s.fd)
		delete(w.sockets, k)
	}
}

func (w *twin) closeSockets() {
	for k := range w.sockets {
		w.closeSocket(k)
	}
}
